"""Packing: many samples about one image in one sequence.

    [image tokens] [BOS prefix "\\n" suffix EOS] [BOS prefix "\\n" suffix EOS] …

An image costs much more than a question, so each sequence holds all it has room for. Samples do not
attend to each other, and positions restart behind the image at each. A sequence of one sample is
plain prefix-LM: there the image tokens attend to the prefix, as they do at inference.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma.models.paligemma import IGNORE_INDEX
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.world import SceneSample, World

IMAGE, PADDING = 0, -1  # segments; samples count from 1


def packed_mask(segments: Tensor, token_type_ids: Tensor) -> Tensor:
    """Which token attends to which: bool [B, 1, T, T], true where the query (row) may attend.

    `segments` [B, T]: 0 image, 1… the sample of a token, -1 padding. `token_type_ids` [B, T]: 1 for
    suffixes.
    """
    prefix = token_type_ids == 0
    same = segments[:, :, None] == segments[:, None, :]
    both_prefix = prefix[:, :, None] & prefix[:, None, :]
    causal = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril()
    allowed = same & (both_prefix | causal) | (segments == IMAGE)[:, None, :]
    return allowed[:, None]


class Packer:
    """Lays out the samples of each scene as a sequence of `max_length` tokens, for training."""

    def __init__(self, processor: PaliGemmaProcessor, world: World, max_length: int) -> None:
        if max_length <= processor.num_image_tokens:
            raise ValueError(
                f"packing.max_length {max_length} leaves no room behind the "
                f"{processor.num_image_tokens} tokens of an image."
            )
        self.processor, self.max_length = processor, max_length
        self.names = {name: n for n, name in enumerate((*world.kinds, "background"), 1)}
        self.colors = {color: n for n, color in enumerate(("", *world.colors))}

    def __call__(
        self,
        samples: Sequence[Sequence[SceneSample]],
        loss_weights: Mapping[Any, float],
        single: bool = False,
    ) -> dict[str, Tensor]:
        """Sequences of B scenes' samples, of which `single` takes the first one only.

        Everything is [B, T]: `input_ids`, `attention_mask`, `token_type_ids` and `labels` as the
        processor has them; `position_ids`, `segments`; `weights` of the labels in the loss; `names`
        in prefixes, each where it ends: its number from 1 among the world's `kinds`, and then
        "background"; and `next_group` [B, T, 3] in captions.
        """
        rows = [
            self.sequence(asked[:1] if single else asked, loss_weights, single) for asked in samples
        ]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def sequence(
        self,
        samples: Sequence[SceneSample],
        loss_weights: Mapping[Any, float],
        single: bool = False,
    ) -> dict[str, np.ndarray]:
        """One row of `__call__`. A sample that has no room is left out."""
        processor, P, T = self.processor, self.processor.num_image_tokens, self.max_length
        row = {
            "input_ids": np.full(T, processor.pad_token_id),
            "attention_mask": np.zeros(T, int),
            "token_type_ids": np.zeros(T, int),
            "labels": np.full(T, IGNORE_INDEX),
            "position_ids": np.arange(1, T + 1),
            "segments": np.full(T, PADDING),
            "weights": np.zeros(T, np.float32),
            "names": np.zeros(T, int),
            "next_group": np.full((T, 3), -1),
        }
        row["input_ids"][:P] = processor.image_token_id
        row["segments"][:P] = 1 if single else IMAGE
        end = P
        for number, sample in enumerate(samples, 1):
            prefix = processor.encode_prompt(sample.prefix)[P:]
            suffix = self.encode_suffix(sample)
            start, answer, stop = end, end + len(prefix), end + len(prefix) + len(suffix)
            if stop > T:
                continue
            row["input_ids"][start:stop] = prefix + suffix
            row["position_ids"][start:stop] = np.arange(P + 1, P + 1 + stop - start)
            row["segments"][start:stop] = number
            row["token_type_ids"][answer:stop] = 1
            row["labels"][answer:stop] = suffix
            row["weights"][answer:stop] = loss_weights.get(sample.task, 1.0) * sample.weight
            for name in sample.names:
                before = processor.encode_prompt(sample.prefix[: name.end])[P:-1]
                row["names"][start + len(before) - 1] = self.names[name.name]
            if sample.task == "caption":
                row["next_group"][answer - 1 : stop - 1] = self.next_groups(sample, len(suffix))
            end = stop
        row["attention_mask"][:end] = 1
        return row

    def encode_suffix(self, sample: SceneSample) -> list[int]:
        """The ids of an answer and EOS; of one that is spelled, one character after the other."""
        encode = self.processor.encode_suffix
        if not sample.spelled:
            return encode(sample.suffix)
        letters = [i for character in sample.suffix for i in encode(character)[:-1]]
        return [*letters, self.processor.eos_token_id]

    def next_groups(self, sample: SceneSample, count: int) -> np.ndarray:
        """What a caption lists next, from the position before its first token on.

        [count, 3]: number of the name from 1, of the color from 1 (0: none is said) and how many;
        0 when everything is listed.
        """
        encode = self.processor.encode_suffix
        listed = [len(encode(sample.suffix[: group.end])) - 1 for group in sample.groups]
        groups = [
            (self.names[group.name], self.colors[group.color], group.count)
            for group in sample.groups
        ]
        passed = np.searchsorted(listed, np.arange(count), side="right")
        return np.array([*groups, (0, 0, 0)])[passed]
