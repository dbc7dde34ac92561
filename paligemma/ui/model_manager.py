"""The one model that answers, for everybody who uses an app, and the change to another."""

import gc

import torch

from paligemma.checkpoints import resolve as checkpoints
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.pipeline import PaliGemma, plan


class ModelManager:
    """Holds `pg`. Every model that takes the seat is loaded with this `device`, `dtype`, `codec`.

    Who asks `pg` and who calls `change` must wait for each other: they share one queue. `find`
    may run beside them. A guest may sit beside it, to be compared.
    """

    def __init__(
        self,
        pg: PaliGemma,
        device: str | None = None,
        dtype: str | None = None,
        codec: str | None = None,
    ) -> None:
        self.pg, self._device, self._dtype, self._codec = pg, device, dtype, codec
        self._guest: tuple[tuple, PaliGemma] | None = None

    def find(self, source: str, report: checkpoints.Report | None = None) -> Checkpoint:
        """`checkpoints.find`, and whether it would fit once the seat is free; ValueError if not."""
        found = checkpoints.find(source, codec=self._codec, report=report)
        if (pg := self.pg) is None:
            raise ValueError("Another model is being loaded: try again when it answers.")
        plan(found, self._device, self._dtype, freed=pg.memory)
        return found

    def change(self, found: Checkpoint) -> None:
        """Let the old model go, then load what was found; on a ValueError the old one is back."""
        old = self.pg.checkpoint
        self.pg = self._guest = None
        _free()
        try:
            self.pg = PaliGemma.open(found, self._device, self._dtype)
        except BaseException:
            _free()
            self.pg = PaliGemma.open(old, self._device, self._dtype)
            raise

    def find_guest(self, source: str, report: checkpoints.Report | None = None) -> Checkpoint:
        """The same for a model beside the seat's: would it fit as things are?"""
        found = checkpoints.find(source, codec=self._codec, report=report)
        plan(found, self._device, freed=self._guest[1].memory if self._guest else 0)
        return found

    def guest(self, found: Checkpoint, dtype: str) -> PaliGemma:
        """What was found, loaded beside `pg`; it stays until another is asked for."""
        asked = found.path, found.adapter, dtype
        if self._guest is None or self._guest[0] != asked:
            self._guest = None
            _free()
            self._guest = asked, PaliGemma.open(found, self._device, dtype)
        return self._guest[1]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
