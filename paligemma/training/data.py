"""The order of training: sources mixed by weight, and made into batches by worker processes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from paligemma.images import open_image
from paligemma.models.mask_codec import MaskCodec
from paligemma.models.paligemma import IGNORE_INDEX
from paligemma.processor import Batch, PaliGemmaProcessor
from paligemma.training.config import Coco, Folder, Rows, Run
from paligemma.training.sources import (
    BadRow,
    CocoSource,
    DrawnScenes,
    JsonLines,
    PictureFolder,
    Source,
)

BLOCK = 1_000  # draws over which a mixture keeps its weights


def open_sources(run: Run, codec: MaskCodec | None) -> list[Source]:
    """The sources of a run. ValueError where one is missing, empty, or lacks the mask codec."""
    sources: list[Source] = []
    for number, given in enumerate(run.data):
        if isinstance(given, Rows):
            source = JsonLines(given.rows, given.images)
        elif isinstance(given, Coco):
            source = CocoSource(given.coco, given.images, given.task, codec)
        elif isinstance(given, Folder):
            source = PictureFolder(given.folder, given.prefix)
        else:
            source = DrawnScenes(given.scenes, given.tasks, codec, seed=run.seed)
        if not len(source):
            first = f" The first reason: {source.bad[0]}" if source.bad else ""
            raise ValueError(f"data.{number} has no row that can be trained on.{first}")
        sources.append(source)
    return sources


class Mixture:
    """Which row of which source is example number k of a run: a function of the seed and k.

    Each source is gone through in a new order an epoch. Of every `BLOCK` draws each source has the
    share of its weight, to one draw, in random places.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        self.sources, self.seed = sources, seed
        shares = np.array(weights) / sum(weights) * BLOCK
        self.counts = np.maximum(shares.astype(int), 1)
        order = np.argsort(self.counts - shares)  # those that lack most come first
        self.counts[order[: max(BLOCK - self.counts.sum(), 0)]] += 1
        self.places = lru_cache(maxsize=2)(self._places)
        self.order = lru_cache(maxsize=2 * len(sources))(self._order)

    def __getstate__(self) -> dict:
        return {"sources": self.sources, "seed": self.seed, "counts": self.counts}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self.places = lru_cache(maxsize=2)(self._places)
        self.order = lru_cache(maxsize=2 * len(self.sources))(self._order)

    def __len__(self) -> int:
        """Rows of all sources together: an epoch."""
        return sum(map(len, self.sources))

    def at(self, number: int) -> tuple[int, int]:
        """(source, row) of example `number`."""
        block, place = divmod(number, int(self.counts.sum()))
        source, drawn = self.places(block)
        which = int(source[place])
        drawn = block * int(self.counts[which]) + int(drawn[place])
        epoch, row = divmod(drawn, len(self.sources[which]))
        return which, int(self.order(which, epoch)[row])

    def _places(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """For each draw of a block its source, and how many draws of that source came before."""
        source = np.repeat(np.arange(len(self.counts)), self.counts)
        np.random.default_rng((self.seed, 0, block)).shuffle(source)
        before = np.zeros(len(source), int)
        for which in range(len(self.counts)):
            before[source == which] = np.arange(self.counts[which])
        return source, before

    def _order(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 1 + source, epoch)).permutation(
            len(self.sources[source])
        )


class Batches(Dataset):
    """Micro-batches by the numbers of their examples, as tensors for the model, right-padded.

    A row that turns out to be bad when it is read gives way to the next good one of its source;
    `skipped` in the batch names it and the reason, and is all there is where none is left.
    """

    def __init__(self, mixture: Mixture, processor: PaliGemmaProcessor, tokens: int) -> None:
        self.mixture, self.processor, self.tokens = mixture, processor, tokens

    def __getitem__(self, numbers: Sequence[int]) -> dict[str, Tensor | list[str]]:
        rows, skipped = [], []
        for number in numbers:
            source, row = self.mixture.at(number)
            rows.append(self._first_good(self.mixture.sources[source], row, skipped))
        if None in rows:
            return {"skipped": skipped}
        columns = {
            "input_ids": self.processor.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "labels": IGNORE_INDEX,
        }
        batch = {
            name: pad_sequence([getattr(row, name)[0] for row in rows], True, padding)
            for name, padding in columns.items()
        }
        pixels = torch.cat([row.pixel_values for row in rows])
        return {**batch, "pixel_values": pixels, "skipped": skipped}

    def _first_good(self, source: Source, row: int, skipped: list[str]) -> Batch | None:
        for number in (*range(row, len(source)), *range(row)):
            try:
                return encode(source, number, self.processor, self.tokens)
            except BadRow as error:
                skipped.append(str(error))
        return None


def encode(source: Source, row: int, processor: PaliGemmaProcessor, tokens: int) -> Batch:
    """Row `row` as a `Batch` of one; BadRow where its picture or its text is refused."""
    try:
        shown = source[row]
        batch = processor([shown.prefix], [open_image(shown.image)], [shown.suffix])
        text = batch.input_ids.shape[1] - processor.num_image_tokens
        if text > tokens:
            raise ValueError(f"it has {text} tokens of text; tokens is {tokens}.")
    except BadRow:
        raise
    except ValueError as error:
        raise BadRow(f"{source.place(row)}: {error}") from error
    return batch
