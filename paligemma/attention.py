"""Where an answer looks: attention to the image columns, reduced while it is recorded.

with capture_attention(model) as maps:
    model(input_ids, pixel_values, attention_mask)
maps.mean  # [B, T, P]
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from paligemma.gemma import RECORDER
from paligemma.model import PaliGemmaForConditionalGeneration


class AttentionMaps:
    """Listens to one model's attention; keeps one [B, T, P] map for each call of the model."""

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers
        self._columns: Tensor | None = None  # [B, P]: where the picture lies in each row
        self._calls: list[Tensor] = []

    def locate(self, is_image: Tensor) -> None:
        self._columns = is_image.nonzero()[:, 1].view(len(is_image), -1)

    def __call__(self, layer: int, weights: Tensor) -> None:
        if self._columns is None:
            raise ValueError("start capture_attention before the picture is read, not after.")
        heads = weights.detach().mean(1)  # [B, T, S]
        columns = self._columns[:, None].expand(-1, heads.shape[1], -1)
        share = heads.gather(2, columns) / self._num_layers
        if layer == 0:
            self._calls.append(share)
        else:
            self._calls[-1] += share

    @property
    def mean(self) -> Tensor:
        """[B, T, P]: how much each query looks at each image token, over all layers and heads.

        T counts the queries of all calls: those of the prompt first, then one for each decoded
        token. A row sums to at most 1; the rest went to text.
        """
        if not self._calls:
            raise ValueError("no attention was recorded: the model has not run (uncompiled) yet.")
        return torch.cat(self._calls, dim=1)


@contextmanager
def capture_attention(model: PaliGemmaForConditionalGeneration) -> Iterator[AttentionMaps]:
    """Record what `model` attends to inside this block; the model itself is not changed."""
    maps = AttentionMaps(model.config.text_config.num_hidden_layers)
    token = RECORDER.set(maps)
    try:
        yield maps
    finally:
        RECORDER.reset(token)
