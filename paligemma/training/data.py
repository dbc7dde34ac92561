"""The order of training: sources mixed by weight, and made into batches by worker processes.

A micro-batch is a function of its step and the numbers of its samples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from paligemma.checkpoints import hub
from paligemma.checkpoints.resolve import Checkpoint
from paligemma.formats.coco import find_instances, read_instances
from paligemma.formats.label_studio import read_label_studio
from paligemma.formats.voc import read_voc
from paligemma.formats.yolo import read_yolo
from paligemma.models.mask_codec import MaskCodec
from paligemma.models.paligemma import IGNORE_INDEX
from paligemma.processor import MAX_PROMPT_IMAGES, Batch, PaliGemmaProcessor
from paligemma.training.augment import Augmentation
from paligemma.training.config import (
    CocoData,
    Data,
    FolderData,
    JsonlData,
    LabelStudioData,
    ParquetData,
    Run,
    SyntheticData,
    VocData,
    YoloData,
)
from paligemma.training.packing import Packer
from paligemma.training.parquet import ParquetRows
from paligemma.training.sources import (
    EVAL_SEED,
    RENDER_SIDE,
    TRAIN_SEED,
    CocoSource,
    InvalidSample,
    JsonLines,
    Sample,
    Source,
    SyntheticScenes,
    answer_masks,
    open_folder,
)

BLOCK = 1_000  # draws over which a mixture keeps its weights

Numbers = tuple[int, Sequence[int]]  # the step, and the numbers of the samples of a micro-batch


def open_sources(run: Run, field: str, codec: MaskCodec | None) -> list[Source]:
    """The sources of a run's `field`, "data" or "eval_data".

    Raises ValueError if one is missing or empty.
    """
    sources: list[Source] = []
    first_seed = EVAL_SEED if field == "eval_data" else TRAIN_SEED
    for number, given in enumerate(getattr(run, field)):
        source = open_data(given, codec, run.seed, first_seed)
        if not len(source):
            first = f" The first reason: {source.invalid[0]}" if source.invalid else ""
            raise ValueError(f"{field}.{number} has no sample that can be trained on.{first}")
        sources.append(source)
    return sources


def open_data(
    given: Data, codec: MaskCodec | None, seed: int = 0, first_seed: int = TRAIN_SEED
) -> Source:
    """One source. Raises ValueError if it is missing or of another form."""
    match given:
        case JsonlData():
            return JsonLines(given.jsonl, given.images)
        case ParquetData():
            return ParquetRows(given.parquet, given.images, given.prefix)
        case FolderData():
            return open_folder(given.folder, given.prefix)
        case SyntheticData():
            return SyntheticScenes(given.synthetic, codec, seed, first_seed)
        case VocData():
            return CocoSource(given.voc, given.voc, "detect", None, given.negatives, seed, read_voc)
        case YoloData():
            path, images, read = given.yolo, given.yolo, read_yolo
        case LabelStudioData():
            path, images = given.label_studio, given.images or given.label_studio.parent
            read = partial(read_label_studio, images=images)
        case CocoData():
            path, images, read = find_instances(given.coco), given.images, read_instances
    return CocoSource(path, images, given.task, codec, given.negatives, seed, read)


def open_mask_codec(run: Run, start: Checkpoint) -> MaskCodec | None:
    """The mask codec of the checkpoint that a run starts from, where the data need it."""
    if run.objective == "patches":
        return None
    for given in (*run.data, *run.eval_data):
        if isinstance(given, SyntheticData) or (
            isinstance(given, CocoData | YoloData | LabelStudioData) and given.task == "segment"
        ):
            return MaskCodec.load(start.mask_codec or hub.fetch_mask_codec())
    return None


class SampleOrder:
    """Which row of which source is sample number k of a run: a function of the seed and k."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        self.sources, self.seed = sources, seed

    def __len__(self) -> int:
        """Rows of all sources together: an epoch."""
        return sum(map(len, self.sources))

    def at(self, number: int) -> tuple[int, int]:
        """(source, row) of sample `number`."""
        raise NotImplementedError


class EveryRow(SampleOrder):
    """Every row of every source once, in one random order, and then again: to evaluate on."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        super().__init__(sources, seed)
        self.ends = np.cumsum([len(source) for source in sources])
        self.order = np.random.default_rng(seed).permutation(len(self))

    def at(self, number: int) -> tuple[int, int]:
        row = int(self.order[number % len(self)])
        source = int(np.searchsorted(self.ends, row, side="right"))
        return source, row - int(self.ends[source]) + len(self.sources[source])


class Mixture(SampleOrder):
    """The sources mixed by their weights: to train on.

    Each source is gone through in a new order an epoch. Of every `BLOCK` draws each source has the
    share of its weight, to one draw, in random places.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], seed: int) -> None:
        super().__init__(sources, seed)
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

    def at(self, number: int) -> tuple[int, int]:
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


class MixtureBatches(Dataset):
    """The micro-batches of a mixture: `batches[step, numbers]` is that of the samples `numbers`.

    Beside tensors a batch has `places`, the names of its samples for messages, and `skipped`, the
    invalid ones that others stand in for.
    """

    mixture: SampleOrder

    def __getitem__(self, numbers: Numbers) -> dict[str, Any]:
        raise NotImplementedError


class SampleBatches(MixtureBatches):
    """Samples of any sources as tensors for the model, one a row, right-padded.

    A sample that turns out to be invalid when it is read gives way to the next good one of its
    source; `skipped` in the batch names it and the reason, and is all there is where none is left.
    """

    def __init__(
        self,
        mixture: SampleOrder,
        processor: PaliGemmaProcessor,
        max_text_tokens: int,
        loss_weights: Mapping[Any, float],
    ) -> None:
        self.mixture, self.processor = mixture, processor
        self.max_text_tokens, self.loss_weights = max_text_tokens, loss_weights
        self.augmentation = Augmentation()
        self.max_images = MAX_PROMPT_IMAGES

    def __getitem__(self, numbers: Numbers) -> dict[str, Any]:
        rows, places, skipped = [], [], []
        for number in numbers[1]:
            which, first = self.mixture.at(number)
            source = self.mixture.sources[which]
            augment = partial(self.augmentation, seed=self.mixture.seed, number=number)
            if (found := self._first_good(source, first, skipped, augment)) is None:
                return {"skipped": skipped}
            row, encoded = found
            rows.append(encoded)
            places.append(source.place(row))
        padding = {
            "input_ids": self.processor.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "labels": IGNORE_INDEX,
        }
        batch = {
            name: pad_sequence([getattr(row, name)[0] for row, _ in rows], True, value)
            for name, value in padding.items()
        }
        labeled = batch["labels"] != IGNORE_INDEX
        if self.loss_weights:
            weights = [self.loss_weights.get(sample.task, 1.0) for _, sample in rows]
            batch["weights"] = labeled * torch.tensor(weights)[:, None]
        else:  # the loss is a mean over samples, of each a mean over its tokens
            batch["weights"] = labeled / labeled.sum(1, keepdim=True)
        pixels = torch.cat([row.pixel_values for row, _ in rows])
        return {**batch, "pixel_values": pixels, "places": places, "skipped": skipped}

    def _first_good(
        self, source: Source, row: int, skipped: list[str], augment: Callable[[Sample], Sample]
    ) -> tuple[int, tuple[Batch, Sample]] | None:
        """The first valid sample from `row` on: its row, and what `encode` returns."""
        for number in (*range(row, len(source)), *range(row)):
            try:
                found = encode(source, number, self.processor, self.max_text_tokens, augment)
                if (count := len(found[1].images)) > self.max_images:
                    raise InvalidSample(
                        f"{source.place(number)}: it has {count} images; this objective takes "
                        f"{self.max_images}."
                    )
                return number, found
            except InvalidSample as error:
                skipped.append(str(error))
        return None


def encode(
    source: Source,
    row: int,
    processor: PaliGemmaProcessor,
    max_text_tokens: int,
    augment: Callable[[Sample], Sample] = lambda sample: sample,
) -> tuple[Batch, Sample]:
    """Sample `row` as a `Batch` of one, and as it is; `augment` changes it before.

    Raises InvalidSample where its image or its text is refused.
    """
    try:
        sample = augment(source[row])
        batch = processor([sample.prefix], [sample.images], [sample.suffix])
        text = batch.input_ids.shape[1] - processor.num_image_tokens * len(sample.images)
        if text > max_text_tokens:
            raise ValueError(f"it has {text} tokens of text; max_text_tokens is {max_text_tokens}.")
    except InvalidSample:
        raise
    except ValueError as error:
        raise InvalidSample(f"{source.place(row)}: {error}") from error
    return batch, sample


class SceneBatches(MixtureBatches):
    """Scenes of one world: `pixel_values`, `patch_labels`, and where there is `packing` all that
    is asked about each as one sequence (see `Packer`), with the world's `grounding`."""

    def __init__(
        self,
        mixture: SampleOrder,
        processor: PaliGemmaProcessor,
        grid: int,
        run: Run,
        codec: MaskCodec | None,
    ) -> None:
        self.mixture, self.processor, self.grid, self.codec = mixture, processor, grid, codec
        self.packing, self.loss_weights = run.packing, run.loss_weights
        self.world = run.open_world()
        if self.packing:
            self.pack = Packer(processor, self.world, self.packing.max_length)

    def __getitem__(self, numbers: Numbers) -> dict[str, Any]:
        step, chosen = numbers
        places = [self.mixture.at(number) for number in chosen]
        sources = [cast(SyntheticScenes, self.mixture.sources[source]) for source, _ in places]
        batch: dict[str, Any] = {"skipped": []}
        batch["places"] = [s.place(row) for s, (_, row) in zip(sources, places, strict=True)]
        if self.packing is None:
            scenes = [source.scene(row) for source, (_, row) in zip(sources, places, strict=True)]
        else:
            single = step % self.packing.single_every == self.packing.single_every - 1
            rounds = 1 if single else self.packing.rounds
            rows = zip(sources, places, strict=True)
            pairs = [source.samples(row, rounds) for source, (_, row) in rows]
            scenes = [scene for scene, _ in pairs]
            samples = answer_masks(self.world, [asked for _, asked in pairs], self.codec)
            batch |= self.pack(samples, self.loss_weights, single)
            batch["grounding"] = self.world.grounding(scenes)
        images = self.world.images(scenes, RENDER_SIDE)
        batch["pixel_values"] = self.processor.pixel_values(images)
        batch["patch_labels"] = self.world.patch_labels(scenes, self.grid)
        return batch
