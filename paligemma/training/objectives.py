"""What is learned: answers about pictures, language alone, or SigLIP's picture-text pairs.

Each is a module around the model that takes a batch of `data.Batches` and returns the loss, a mean
over its examples. What an objective does not train it freezes.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from paligemma.config import PaliGemmaConfig, TextConfig
from paligemma.models.gemma import GemmaDecoder
from paligemma.models.paligemma import IGNORE_INDEX, PaliGemmaForConditionalGeneration


class Answers(nn.Module):
    """The suffix, given picture and prefix: the prefix-LM of PaliGemma."""

    def __init__(self, model: PaliGemmaForConditionalGeneration, smoothing: float) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(**batch, label_smoothing=self.smoothing)["loss"]


class Language(Answers):
    """The same without the picture: stage 0 of the decoder."""

    def __init__(self, model: PaliGemmaForConditionalGeneration, smoothing: float) -> None:
        super().__init__(model, smoothing)
        model.vision_tower.requires_grad_(False)
        model.multi_modal_projector.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        P = self.model.config.vision_config.num_image_tokens  # columns at the start of each row
        text = {name: value[:, P:] for name, value in batch.items() if name != "pixel_values"}
        return super().forward(text)


class SigLIP(nn.Module):
    """Every picture against every suffix of the batch, over all processes: a sigmoid each.

    Source: SigLIP (arXiv 2303.15343), with a mean over patches and over tokens for its pooling.
    The text tower, as large as the vision tower, is thrown away.
    """

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        model.requires_grad_(False)
        model.vision_tower.requires_grad_(True)
        self.text_tower = GemmaDecoder(_tower(model.config))
        width = model.config.vision_config.hidden_size
        nn.init.normal_(self.text_tower.embed_tokens.weight, std=width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        seen = F.normalize(self.model.vision_tower(batch["pixel_values"]).mean(1), dim=-1)
        written = batch["labels"] != IGNORE_INDEX  # [B, T]
        x = self.text_tower.embed_tokens(batch["input_ids"])
        mask = written[:, None, None, :].expand(-1, -1, written.shape[1], -1)
        hidden = self.text_tower(x, written.cumsum(1), mask) * written[..., None]
        read = F.normalize(hidden.sum(1) / written.sum(1, keepdim=True), dim=-1)
        others = torch.cat(all_gather(read)) if dist.is_initialized() else read
        own = dist.get_rank() * len(seen) if dist.is_initialized() else 0
        likeness = seen @ others.T * self.logit_scale.exp() + self.logit_bias
        signs = -torch.ones_like(likeness)
        rows = torch.arange(len(seen), device=seen.device)
        signs[rows, own + rows] = 1
        return -F.logsigmoid(signs * likeness.float()).sum(1).mean()


def _tower(config: PaliGemmaConfig) -> TextConfig:
    """A decoder's sizes that equal those of the vision tower; it reads in both directions."""
    vision = config.vision_config
    heads = vision.num_attention_heads
    return TextConfig(
        vocab_size=config.text_config.vocab_size,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=vision.hidden_size // heads,
    )


def build(
    name: str, model: PaliGemmaForConditionalGeneration, smoothing: float
) -> Answers | Language | SigLIP:
    """The objective of that name around `model`."""
    if name == "siglip":
        return SigLIP(model)
    return {"answers": Answers, "language": Language}[name](model, smoothing)
