"""The model that serves every visitor of an app, switching it, and one more to compare with."""

import gc

import torch

from paligemma.checkpoints.hub import ProgressCallback
from paligemma.checkpoints.resolve import Checkpoint, resolve
from paligemma.pipeline import PaliGemma


class ModelManager:
    """Holds `current`, the loaded model; None while another one is being loaded.

    `device`, `dtype` and `mask_codec` apply to every model that becomes the current one. Calls of
    `current` and of `switch` must not overlap: the app runs both in one queue. `resolve` may run
    at the same time. A comparison model may be loaded beside the current one.
    """

    def __init__(
        self,
        model: PaliGemma,
        device: str | None = None,
        dtype: str | None = None,
        mask_codec: str | None = None,
    ) -> None:
        self.current: PaliGemma | None = model
        self._device, self._dtype, self._mask_codec = device, dtype, mask_codec
        self._comparison: tuple[tuple, PaliGemma] | None = None  # what was asked for, the model

    def resolve(self, source: str, progress: ProgressCallback | None = None) -> Checkpoint:
        """A checkpoint that fits once the current model is freed.

        Raises ValueError for a checkpoint that cannot be had or does not fit, and while another
        model is being loaded.
        """
        checkpoint = resolve(source, mask_codec=self._mask_codec, progress=progress)
        if (current := self.current) is None:
            raise ValueError("Another model is being loaded: try again when it answers.")
        checkpoint.plan(self._device, self._dtype, freed=current.memory)
        return checkpoint

    def switch(self, checkpoint: Checkpoint) -> None:
        """Free the current model, then load another; if that raises, load the former one again."""
        assert self.current is not None
        former = self.current.checkpoint
        self.current = self._comparison = None
        _free_memory()
        try:
            self.current = PaliGemma.from_checkpoint(checkpoint, self._device, self._dtype)
        except BaseException:
            _free_memory()
            self.current = PaliGemma.from_checkpoint(former, self._device, self._dtype)
            raise

    def resolve_comparison(
        self, source: str, progress: ProgressCallback | None = None
    ) -> Checkpoint:
        """A checkpoint that fits beside the current model; raises ValueError otherwise."""
        checkpoint = resolve(source, mask_codec=self._mask_codec, progress=progress)
        freed = self._comparison[1].memory if self._comparison else 0
        checkpoint.plan(self._device, freed=freed)
        return checkpoint

    def load_comparison(self, checkpoint: Checkpoint, dtype: str) -> PaliGemma:
        """The comparison model; it stays loaded until another one is asked for."""
        key = checkpoint.path, checkpoint.adapter, dtype
        if self._comparison is None or self._comparison[0] != key:
            self._comparison = None
            _free_memory()
            self._comparison = key, PaliGemma.from_checkpoint(checkpoint, self._device, dtype)
        return self._comparison[1]


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
