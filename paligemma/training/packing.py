"""Packing: many samples about one image in one sequence.

    [image tokens] [BOS prefix "\\n" suffix EOS] [BOS prefix "\\n" suffix EOS] …

An image costs much more than a question, so each sequence holds all it has room for. Samples do not
attend to each other, and positions restart behind the image at each. A sequence of one sample is
plain prefix-LM: there the image tokens attend to the prefix, as they do at inference.
"""

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
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


class NameFinder:
    """Finds the names of a world's kinds, and "background", in token ids.

    `names` are numbered from 1 in the order of the world's `kinds`; singular and plural alike.
    """

    def __init__(self, tokenizer: Tokenizer, world: World) -> None:
        self.by_first: dict[int, list[tuple[list[int], int]]] = {}
        for number, name in enumerate([*world.kinds, "background"], 1):
            for form in dict.fromkeys([name, world.plural(name)]):
                ids = tokenizer.encode(f" {form}", add_special_tokens=False).ids
                self.by_first.setdefault(ids[0], []).append((ids, number))
        for found in self.by_first.values():
            found.sort(key=lambda one: -len(one[0]))  # the longest that fits

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """For each of the `ids` [n] the number of the name that ends there, 0 for none."""
        numbers, end = np.zeros(len(ids), int), 0
        for at, token in enumerate(ids):
            if at < end:
                continue
            for name, number in self.by_first.get(token, ()):
                if list(ids[at : at + len(name)]) == name:
                    end = at + len(name)
                    numbers[end - 1] = number
                    break
        return numbers


class Packer:
    """Lays out the samples of each scene as a sequence of `max_length` tokens, for training."""

    def __init__(self, processor: PaliGemmaProcessor, world: World, max_length: int) -> None:
        self.processor, self.world, self.max_length = processor, world, max_length
        self.find_names = NameFinder(processor.tokenizer, world)

    def __call__(
        self,
        scenes: Sequence,
        samples: Sequence[Sequence[SceneSample]],
        loss_weights: dict[str, float],
        single: bool = False,
    ) -> dict[str, Tensor]:
        """Sequences of B scenes with their samples, of which `single` takes the first one only.

        Everything is [B, T]: `input_ids`, `attention_mask`, `token_type_ids` and `labels` as the
        processor has them; `position_ids`, `segments`; `weights` of the labels in the loss; `names`
        in prefixes (see `NameFinder`), and `next_group` [B, T, 3] in captions.
        """
        rows = [
            self.sequence(scene, asked[:1] if single else asked, loss_weights, single)
            for scene, asked in zip(scenes, samples, strict=True)
        ]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def sequence(
        self,
        scene,
        samples: Sequence[SceneSample],
        loss_weights: dict[str, float],
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
            suffix = processor.encode_suffix(sample.suffix)
            start, answer, stop = end, end + len(prefix), end + len(prefix) + len(suffix)
            if stop > T:
                continue
            row["input_ids"][start:stop] = prefix + suffix
            row["position_ids"][start:stop] = np.arange(P + 1, P + 1 + stop - start)
            row["segments"][start:stop] = number
            row["token_type_ids"][answer:stop] = 1
            row["labels"][answer:stop] = suffix
            row["weights"][answer:stop] = loss_weights.get(sample.task, 1.0) * sample.weight
            row["names"][start:answer] = self.find_names(prefix)
            if sample.task == "caption":
                row["next_group"][answer - 1 : stop - 1] = self.next_groups(scene, suffix[:-1])
            end = stop
        row["attention_mask"][:end] = 1
        return row

    def next_groups(self, scene, ids: Sequence[int]) -> np.ndarray:
        """What a caption of these ids [n] lists next, from the position before its first token on.

        [n + 1, 3]: kind and color from 1 and count; 0 when everything is listed.
        """
        kinds, colors = list(self.world.kinds), list(self.world.colors)
        groups = [
            (kinds.index(kind) + 1, colors.index(color) + 1, count)
            for kind, color, count in self.world.groups(scene)
        ] + [(0, 0, 0)]
        numbers = self.find_names(ids)
        listed = (numbers > 0) & (numbers <= len(kinds))
        passed = np.minimum(np.cumsum([False, *listed]), len(groups) - 1)
        return np.array(groups)[passed]
