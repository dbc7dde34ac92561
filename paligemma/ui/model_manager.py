"""The model that serves every visitor of an app, switching it, and one more to compare with."""

import gc
from functools import partial

import torch

from paligemma.checkpoints.catalog import PUBLISHED, PublishedCheckpoint
from paligemma.checkpoints.hub import ProgressCallback
from paligemma.checkpoints.needs import ModelNeeds, model_needs
from paligemma.checkpoints.resolve import BUILT_IN, Checkpoint, resolve
from paligemma.devices import plan_placement
from paligemma.pipeline import PaliGemma


class ModelManager:
    """Holds `current`, the loaded model; None while another one is being loaded.

    `device`, `dtype`, `mask_codec` and `quantize` apply to every model that becomes the current
    one. Calls of `current` and of `switch` must not overlap: the app runs both in one queue.
    `resolve` may run at the same time. A comparison model may be loaded beside the current one.

    Which models visitors may load is decided here, for every caller. `any_model`: whatever
    `checkpoints.resolve` finds, on this machine and with its token for the hub; otherwise the
    built-in model, those of the catalog, and the one that was there first. `can_switch`: visitors
    may load models at all. `version` counts the switches.
    """

    def __init__(
        self,
        model: PaliGemma,
        device: str | None = None,
        dtype: str | None = None,
        mask_codec: str | None = None,
        quantize: str | None = None,
        any_model: bool = True,
        can_switch: bool = True,
    ) -> None:
        self.current: PaliGemma | None = model
        self.any_model, self.can_switch, self.version = any_model, can_switch, 0
        self._sources = {BUILT_IN, *(row.id for row in PUBLISHED)}
        if not any_model:
            self._sources.add(model.checkpoint.source)
        self._device, self._dtype, self._mask_codec = device, dtype, mask_codec
        self._quantize = quantize
        self._comparison: tuple[tuple, PaliGemma] | None = None  # what was asked for, the model

    @property
    def loaded(self) -> PaliGemma:
        """The current model. Raises ValueError while another one is being loaded."""
        if (model := self.current) is None:
            raise ValueError("Another model is being loaded: try again when it answers.")
        return model

    def needs(self, published: PublishedCheckpoint) -> ModelNeeds:
        """What a published model would need in place of the current one."""
        return model_needs(
            published.config, self._device, self._dtype, self._quantize, self.loaded.memory
        )

    def resolve(
        self,
        source: str,
        progress: ProgressCallback | None = None,
        token: str | None = None,
    ) -> Checkpoint:
        """A checkpoint that fits once the current model is freed.

        `token`: for this download from the hub, in place of this machine's. Raises ValueError for a
        checkpoint that visitors may not load, that cannot be had or does not fit, and while another
        model is being loaded.
        """
        self._require_allowed(source)
        checkpoint = self._resolve(
            source, progress, self.loaded.memory, self._dtype, self._quantize, token
        )
        checkpoint.plan(self._device, self._dtype, self.loaded.memory, self._quantize)
        return checkpoint

    def switch(self, checkpoint: Checkpoint | None) -> None:
        """Free the current model, then load another; if that raises, load the former one again.

        Raises ValueError for anything but what `resolve` returned.
        """
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError("There is no model to load yet: press Load.")
        self._require_allowed(checkpoint.source)
        former = self.loaded.checkpoint
        self.current = self._comparison = None
        _free_memory()
        try:
            self.current = self._load(checkpoint)
        except BaseException:
            _free_memory()
            self.current = self._load(former)
            raise
        self.version += 1

    def resolve_comparison(
        self, source: str, progress: ProgressCallback | None = None, dtype: str | None = None
    ) -> Checkpoint:
        """A checkpoint that fits beside the current model; raises ValueError as `resolve`."""
        self._require_allowed(source)
        freed = self._comparison[1].memory if self._comparison else 0
        checkpoint = self._resolve(source, progress, freed, dtype)
        checkpoint.plan(self._device, dtype, freed)
        return checkpoint

    def load_comparison(self, checkpoint: Checkpoint | None, dtype: str) -> PaliGemma:
        """The comparison model; it stays loaded until another one is asked for.

        Raises ValueError for anything but what `resolve_comparison` returned.
        """
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError("The other model is not there yet: press Compare.")
        self._require_allowed(checkpoint.source)
        key = checkpoint.path, checkpoint.adapter, dtype
        if self._comparison is None or self._comparison[0] != key:
            self._comparison = None
            _free_memory()
            self._comparison = key, PaliGemma.from_checkpoint(checkpoint, self._device, dtype)
        return self._comparison[1]

    def _load(self, checkpoint: Checkpoint) -> PaliGemma:
        return PaliGemma.from_checkpoint(checkpoint, self._device, self._dtype, self._quantize)

    def _resolve(
        self,
        source: str,
        progress: ProgressCallback | None,
        freed: int,
        dtype: str | None = None,
        quantize: str | None = None,
        token: str | None = None,
    ) -> Checkpoint:
        """Memory is planned before the weights are fetched."""
        fits = partial(
            plan_placement, device=self._device, dtype=dtype, freed=freed, quantize=quantize
        )
        return resolve(
            source, mask_codec=self._mask_codec, progress=progress, fits=fits, token=token
        )

    def _require_allowed(self, source: str) -> None:
        """Raises ValueError for a model that visitors may not load, the same for all there is."""
        if not self.can_switch:
            raise ValueError("The model of this page cannot be changed.")
        if not self.any_model and source not in self._sources:
            raise ValueError("On this page only models of the list can be loaded: pick one of it.")


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
