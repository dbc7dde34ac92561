"""What is learned: answers about images, language alone, labels of patches, or SigLIP's pairs.

An objective is a module around the model. It takes a batch of `data.py` and `counts`, and returns
{"loss": what to minimize, and its parts by name}. `counts(batch)` are the numbers that the sums in
the losses are divided by; the trainer adds them up over the micro-batches and processes of a step,
so that a loss is a mean over the whole batch however it is cut. An objective freezes what it does
not train.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from paligemma.config import PaliGemmaConfig, TextConfig
from paligemma.detections import LOC_TOKENS, loc_to_value, value_to_loc
from paligemma.models.gemma import GemmaDecoder, rope_table
from paligemma.models.paligemma import (
    IGNORE_INDEX,
    PaliGemmaForConditionalGeneration,
    loss_mask,
    prefix_lm_mask,
)
from paligemma.models.siglip import VisionTower
from paligemma.processor import PaliGemmaProcessor
from paligemma.synthetic.world import World
from paligemma.training.auxiliary import (
    GROUNDING_LAYER,
    NEXT_GROUP_LAYER,
    Counts,
    GroundingHead,
    NextGroupHead,
    PatchHeads,
    mean,
    take,
    true_indices,
    word_counts,
    word_ids,
    word_loss,
)
from paligemma.training.config import Auxiliary, Run, SoftLocTargets
from paligemma.training.packing import packed_mask

Batch = Mapping[str, Any]  # tensors by name, and the labels of patches
Losses = dict[str, Tensor]


class Objective(nn.Module):
    """What is learned: see above."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The numbers that the sums in the losses of this batch are divided by."""
        raise NotImplementedError

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        raise NotImplementedError


def encode_images(tower: VisionTower, pixel_values: Tensor) -> Tensor:
    """Features [B, P, Dv]; a function, so that it can be compiled."""
    return tower(pixel_values)


def decode(
    decoder: GemmaDecoder, x: Tensor, positions: Tensor, mask: Tensor, local_mask: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """The output of `decoder` [B, T, D], and its hidden states after every layer."""
    rope = rope_table(positions, decoder.config.head_dim, decoder.config.rope_theta)
    states = []
    for layer in decoder.layers:
        here = local_mask if layer.is_local and local_mask is not None else mask
        x = layer(x, rope, here, None, None)
        states.append(x)
    return decoder.norm(x), states


class Words(nn.Module):
    """The lists of `auxiliary.word_ids`, which move with an objective to its device."""

    def __init__(self, lists: Sequence[Tensor]) -> None:
        super().__init__()
        for number, ids in enumerate(lists):
            self.register_buffer(str(number), ids, persistent=False)

    @property
    def ids(self) -> list[Tensor]:
        return list(self.buffers())


class Answers(Objective):
    """The suffix, given image and prefix: the prefix-LM of PaliGemma. Auxiliary heads may help."""

    target_ids: Tensor
    target_shares: Tensor

    def __init__(
        self, model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, run: Run
    ) -> None:
        super().__init__()
        self.model, self.smoothing = model, run.label_smoothing
        self.weights = run.auxiliary or Auxiliary()
        self.num_image_tokens = processor.num_image_tokens
        if run.auxiliary:
            self.add_heads(processor, run.open_world())
        ids, shares = soft_targets(
            processor, model.config.text_config.vocab_size, run.soft_loc_targets
        )
        self.register_buffer("target_ids", ids, persistent=False)
        self.register_buffer("target_shares", shares, persistent=False)
        self.encode_images = torch.compile(encode_images) if run.compile else encode_images
        self.decode = torch.compile(decode) if run.compile else decode

    def add_heads(self, processor: PaliGemmaProcessor, world: World) -> None:
        """Add the auxiliary heads that have a weight, sized for `world`."""
        config = self.model.config
        width, weights = config.text_config.hidden_size, self.weights
        if weights.patches:
            self.patch_heads = PatchHeads(config.vision_config.hidden_size, world)
        if weights.grounding:
            self.grounding_head = GroundingHead(width, world)
        if weights.next_group:
            self.next_group_head = NextGroupHead(width, world)
        if weights.words:
            self.words = Words(word_ids(processor.tokenizer, world))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The summed weights of answer tokens, and what each auxiliary loss counts."""
        unlabeled = batch["labels"] == IGNORE_INDEX
        counts = {"answers": batch["weights"].masked_fill(unlabeled, 0).sum()}
        if self.weights.patches:
            counts |= PatchHeads.counts(batch["patch_labels"])
        if self.weights.words:
            counts |= word_counts(batch["patch_labels"])
        if self.weights.grounding:
            counts |= GroundingHead.counts(batch["names"], batch["grounding"])
        if self.weights.next_group:
            counts |= NextGroupHead.counts(batch["next_group"])
        return counts

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        model, weights = self.model, self.weights
        features = self.encode_images(model.vision_tower, batch["pixel_values"])
        parts: dict[str, Tensor] = {}
        if weights.patches:
            parts["patches"] = self.patch_heads(features, batch["patch_labels"], counts)
        images = model.multi_modal_projector(features)
        if weights.words:
            table = model.language_model.embed_tokens.weight
            parts["words"] = word_loss(images, table, self.words.ids, batch["patch_labels"], counts)
        hidden, states = self.run_decoder(self.embed(batch["input_ids"], images), batch)
        if weights.grounding:
            parts["grounding"] = self.grounding_head(
                states[GROUNDING_LAYER], batch["names"], batch["grounding"], counts
            )
        if weights.next_group:
            parts["next_group"] = self.next_group_head(
                states[NEXT_GROUP_LAYER], batch["next_group"], counts
            )
        loss = answers = self.answer_loss(hidden, batch, counts)
        for name, part in parts.items():
            loss = loss + getattr(weights, name) * part
        shown = {"answers": answers} | parts if parts else {}
        return {"loss": loss} | {name: part.detach() for name, part in shown.items()}

    def embed(self, ids: Tensor, images: Tensor) -> Tensor:
        """Embeddings [B, T, D] of `ids` [B, T], which begin with the tokens of their images.

        `images` [images, P, D]: one for each sample, or more where samples have several.
        """
        if len(images) == len(ids):
            text = self.model.embed_tokens(self.on_grid(ids[:, self.num_image_tokens :]))
            return torch.cat([images.to(text.dtype), text], 1)
        config = self.model.config
        is_image = ids == config.image_token_index
        x = self.model.embed_tokens(self.on_grid(ids.masked_fill(is_image, config.pad_token_id)))
        return x.masked_scatter(is_image[..., None], images.to(x.dtype))

    def on_grid(self, ids: Tensor) -> Tensor:
        """The tokens with each `<loc>` moved to the grid of `soft_loc_targets`, if there is one.

        A model answers on the grid, so it must go on from what it answers.
        """
        return self.target_ids[:, self.target_ids.shape[1] // 2][ids]

    def run_decoder(self, x: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """The decoder over embeddings [B, T, D] of a batch, packed or not."""
        token_type_ids, local_mask = batch["token_type_ids"], None
        if "segments" in batch:
            positions = batch["position_ids"]
            mask = packed_mask(batch["segments"], token_type_ids)
        else:
            attention_mask = batch["attention_mask"]
            positions = attention_mask.cumsum(1)  # from 1, as transformers counts
            mask = prefix_lm_mask(attention_mask, token_type_ids)
            window = self.model.config.text_config.sliding_window
            if window is not None and window < x.shape[1]:
                local_mask = prefix_lm_mask(attention_mask, token_type_ids, window)
        return self.decode(self.model.language_model, x, positions, mask, local_mask)

    def answer_loss(self, hidden: Tensor, batch: Batch, counts: Counts) -> Tensor:
        """Cross-entropy of the suffixes' tokens, by their weights. Scores of no others are made."""
        counted = true_indices(loss_mask(batch["labels"]))
        logits = self.model.logits(take(hidden, counted)).float()
        targets = take(batch["labels"].roll(-1, 1), counted)
        weights = take(batch["weights"].roll(-1, 1), counted)
        scores = F.log_softmax(logits, -1)
        ids, shares = self.target_ids[targets], self.target_shares[targets]
        losses = -(scores.gather(1, ids) * shares).sum(1)
        if self.smoothing:
            losses = (1 - self.smoothing) * losses - self.smoothing * scores.mean(1)
        return mean(losses * weights, counts["answers"])


class Language(Answers):
    """The same without the image: stage 0 of the decoder."""

    def __init__(
        self, model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, run: Run
    ) -> None:
        super().__init__(model, processor, run)
        model.vision_tower.requires_grad_(False)
        model.multi_modal_projector.requires_grad_(False)

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        names = ("input_ids", "attention_mask", "token_type_ids", "labels", "weights")
        text = {name: batch[name][:, self.num_image_tokens :] for name in names}
        hidden, _ = self.run_decoder(self.model.embed_tokens(text["input_ids"]), text)
        return {"loss": self.answer_loss(hidden, text, counts)}


def soft_targets(
    processor: PaliGemmaProcessor, vocabulary: int, given: SoftLocTargets | None
) -> tuple[Tensor, Tensor]:
    """What counts as right for each token: `ids`, `shares` [V, n], rows summing to 1.

    With `given`, a `<loc>` shares its weight with its neighbors on the grid; the nearest is in the
    middle of `ids`. One that lies between the lines is no target itself: a model whose boxes end at
    whole pixels never learned it.
    """
    if given is None:
        return torch.arange(vocabulary)[:, None], torch.ones(vocabulary, 1)
    offsets = torch.arange(-given.reach, given.reach + 1)
    ids = torch.arange(vocabulary)[:, None].repeat(1, len(offsets))
    shares = torch.zeros(vocabulary, len(offsets))
    shares[:, given.reach] = 1  # of other tokens
    grid = given.grid_of(processor.image_size)
    locs = [processor.tokenizer.token_to_id(token) for token in LOC_TOKENS]
    lines = {value_to_loc(pixel / grid): pixel for pixel in range(grid + 1)}
    for loc, row in enumerate(locs):
        place = lines.get(loc, loc_to_value(loc) * grid)
        pixels = round(place) + offsets
        ids[row] = torch.tensor([locs[value_to_loc(n / grid)] for n in pixels.tolist()])
        shares[row] = torch.softmax(-0.5 * ((pixels - place) / given.sigma) ** 2, 0)
    return ids, shares


class Patches(Objective):
    """What each patch of an image shows: the vision tower alone, under `PatchHeads`.

    With a weight for `words` image tokens become like the words of what they show, as these are:
    so a decoder that knows the words still knows what it sees. (LiT locks the image tower against
    the text in the same way, arXiv 2111.07991; here the text is locked.)
    """

    def __init__(
        self, model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, run: Run
    ) -> None:
        super().__init__()
        self.model = model
        model.requires_grad_(False)
        model.vision_tower.requires_grad_(True)
        world = run.open_world()
        self.patch_heads = PatchHeads(model.config.vision_config.hidden_size, world)
        self.word_weight = run.auxiliary.words if run.auxiliary else 0.0
        self.words = Words(word_ids(processor.tokenizer, world)) if self.word_weight else None
        self.encode_images = torch.compile(encode_images) if run.compile else encode_images

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        counts = PatchHeads.counts(batch["patch_labels"])
        return counts | (word_counts(batch["patch_labels"]) if self.words else {})

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        model, labels = self.model, batch["patch_labels"]
        features = self.encode_images(model.vision_tower, batch["pixel_values"])
        patches = self.patch_heads(features, labels, counts)
        if self.words is None:
            return {"loss": patches}
        images = model.multi_modal_projector(features)
        table = model.language_model.embed_tokens.weight
        words = word_loss(images, table, self.words.ids, labels, counts)
        loss = patches + self.word_weight * words
        return {"loss": loss, "patches": patches.detach(), "words": words.detach()}


class SigLIP(Objective):
    """Every image against every suffix of the batch, over all processes: a sigmoid each.

    Source: SigLIP (arXiv 2303.15343), with a mean over patches and over tokens for its pooling.
    The text tower, as large as the vision tower, is thrown away.
    """

    def __init__(self, model: PaliGemmaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        model.requires_grad_(False)
        model.vision_tower.requires_grad_(True)
        self.text_tower = GemmaDecoder(_text_tower_config(model.config))
        width = model.config.vision_config.hidden_size
        nn.init.normal_(self.text_tower.embed_tokens.weight, std=width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Images."""
        return {"images": torch.ones_like(batch["pixel_values"][:, 0, 0, 0]).sum()}

    def forward(self, batch: Batch, counts: Counts) -> Losses:
        images = F.normalize(self.model.vision_tower(batch["pixel_values"]).mean(1), dim=-1)
        in_suffix = batch["labels"] != IGNORE_INDEX  # [B, T]
        x = self.text_tower.embed_tokens(batch["input_ids"])
        mask = in_suffix[:, None, None, :].expand(-1, -1, in_suffix.shape[1], -1)
        hidden = self.text_tower(x, in_suffix.cumsum(1), mask) * in_suffix[..., None]
        texts = F.normalize(hidden.sum(1) / in_suffix.sum(1, keepdim=True), dim=-1)
        everyone = torch.cat(all_gather(texts)) if dist.is_initialized() else texts
        first = dist.get_rank() * len(images) if dist.is_initialized() else 0
        logits = images @ everyone.T * self.logit_scale.exp() + self.logit_bias
        signs = -torch.ones_like(logits)
        rows = torch.arange(len(images), device=images.device)
        signs[rows, first + rows] = 1
        losses = -F.logsigmoid(signs * logits.float()).sum(1)
        return {"loss": losses.sum() / counts["images"]}


def _text_tower_config(config: PaliGemmaConfig) -> TextConfig:
    """A decoder's sizes that equal those of the vision tower; it attends in both directions."""
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


def make_objective(
    model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, run: Run
) -> Objective:
    """The objective of a run around `model`."""
    if run.objective == "siglip":
        return SigLIP(model)
    kinds = {"answers": Answers, "language": Language, "patches": Patches}
    return kinds[run.objective](model, processor, run)
