"""Batches of drawn scenes: many questions behind one picture, in one row.

    [image tokens] [BOS prefix "\\n" suffix EOS] [BOS prefix "\\n" suffix EOS] …

A picture costs much more than a question, so each row asks all it has room for. Questions do not
see each other, and positions restart behind the picture at each. A row with one question only is
plain prefix-LM: there the image tokens see the prefix, as they do when the model answers.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from paligemma.config import PaliGemmaConfig
from paligemma.models.mask_codec import MaskCodec
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.language import Example, examples, whole_pixels
from paligemma.synthetic.scenes import Scene, crop
from paligemma.training.patch_heads import PatchLabels, draw, look
from paligemma.training.text_heads import name_numbers, next_told, places

WEIGHTS = {"caption": 3.0, "ask": 1.5, "read": 2.5, "detect": 1.5, "segment": 1.3, "region": 0.7}
PICTURE, PADDING = 0, -1  # segment numbers; questions count from 1


@dataclass(frozen=True)
class Packed:
    """One training batch. B rows of T tokens.

    `segments` [B, T]: 0 picture, 1… the question a token belongs to, -1 padding. `is_suffix`
    [B, T]. `weights` [B, T]: how much predicting the *next* token counts. `targets` [B, T].
    `upcoming` [B, T, 3]: what a caption tells next at each of its columns, for the heads of
    `names`. `patches`: what each patch shows, for the tower's heads. `places`: what is where and
    in which colour, for the names' head.
    """

    input_ids: Tensor
    positions: Tensor
    segments: Tensor
    is_suffix: Tensor
    targets: Tensor
    weights: Tensor
    upcoming: Tensor
    pixel_values: Tensor
    patches: PatchLabels
    places: Tensor

    def mask(self) -> Tensor:
        """Who may look at whom: bool [B, 1, T, T]."""
        segments, prefix = self.segments, ~self.is_suffix
        together = segments[:, :, None] == segments[:, None, :]
        both_prefix = prefix[:, :, None] & prefix[:, None, :]
        causal = torch.ones(together.shape[1:], dtype=torch.bool).tril()
        seen = together & (both_prefix | causal) | (segments == PICTURE)[:, None, :]
        return seen[:, None]


class PackedScenes(Dataset):
    """Batch number n of an endless series: a function of `seed` and n alone.

    Every `single`-th batch asks one question a picture. `length` is T.
    """

    def __init__(
        self,
        processor: PaliGemmaProcessor,
        config: PaliGemmaConfig,
        codec: MaskCodec,
        batch: int,
        seed: int,
        length: int = 232,
        single: int = 8,
    ) -> None:
        self.processor, self.config, self.codec = processor, config, codec
        self.batch, self.seed, self.length, self.single = batch, seed, length, single
        self.numbers = name_numbers(processor.tokenizer).numpy()

    def __getitem__(self, number: int) -> Packed:
        scenes, rng = draw(self.seed, number, self.batch)
        asked = _with_codes([examples(scene, rng) for scene in scenes], self.codec)
        if number % self.single == self.single - 1:
            rows = [self._row(s, row[:1], alone=True) for s, row in zip(scenes, asked, strict=True)]
        else:
            rows = [self._row(s, row) for s, row in zip(scenes, asked, strict=True)]
        return Packed(
            *(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)),
            *look(scenes, self.processor, self.config.vision_config.grid),
            places(scenes),
        )

    def _row(
        self, scene: Scene, asked: list[Example], alone: bool = False
    ) -> tuple[np.ndarray, ...]:
        """ids, positions, segments, is_suffix, targets, weights and what comes next, of one row."""
        P, T = self.config.vision_config.num_image_tokens, self.length
        ids = np.full(T, self.config.pad_token_id)
        ids[:P] = self.config.image_token_index
        positions = np.arange(1, T + 1)
        segments, is_suffix = np.full(T, PADDING), np.zeros(T, bool)
        segments[:P] = 1 if alone else PICTURE
        targets, weights = np.zeros(T, int), np.zeros(T, np.float32)
        upcoming = np.full((T, 3), -1)
        end = P
        for number, example in enumerate(asked, 1):
            prefix = self.processor.encode_prompt(example.prefix)[P:]
            suffix = self.processor.encode_suffix(example.suffix)
            start, answer, stop = end, end + len(prefix), end + len(prefix) + len(suffix)
            if stop > T:
                continue
            ids[start:stop] = prefix + suffix
            positions[start:stop] = np.arange(P + 1, P + 1 + stop - start)
            segments[start:stop] = number
            is_suffix[answer:stop] = True
            targets[answer - 1 : stop - 1] = suffix
            weights[answer - 1 : stop - 1] = WEIGHTS[example.kind]
            if example.kind == "caption":
                told = next_told(scene, self.numbers[suffix[:-1]])
                upcoming[answer - 1 : stop - 1] = told
            end = stop
        return ids, positions, segments, is_suffix, targets, weights, upcoming


def _with_codes(asked: list[list[Example]], codec: MaskCodec) -> list[list[Example]]:
    """The same examples, the segmentations answered; all masks are encoded in one call."""
    waiting = [
        item
        for row in asked
        for example in row
        if example.kind == "segment"
        for item in example.found
    ]
    masks = [crop(item, whole_pixels(item.box)) for item in waiting]
    codes = iter(codec.encode(torch.from_numpy(np.stack(masks))).tolist() if masks else [])
    return [
        [e.with_codes([next(codes) for _ in e.found]) if e.kind == "segment" else e for e in row]
        for row in asked
    ]
