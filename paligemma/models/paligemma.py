"""PaliGemma: SigLIP's patch features, through one linear layer, are Gemma's first input tokens.

    pixels -> VisionTower -> connector -> [image tokens][BOS][prefix]["\\n"] -> Gemma -> suffix

    features = model.embed_image(pixel_values)  # once an image
    logits = model.prefill(input_ids, features, attention_mask, kv_cache)
    logits = model.decode(logits.argmax(-1, keepdim=True), kv_cache)  # once a token

Source: PaliGemma (arXiv 2407.07726), PaliGemma 2 (arXiv 2412.03555). Image and prefix attend to
each other in both directions; the suffix is causal. Where the original JAX code and transformers
disagree (softcap, sliding window) this follows transformers, driven by the config.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import PaliGemmaConfig
from paligemma.models.gemma import GemmaDecoder, KVCache, active_recorder, softcap
from paligemma.models.siglip import VisionTower

IGNORE_INDEX = -100  # the label of a token that the loss skips


def prefix_lm_mask(
    attention_mask: Tensor, token_type_ids: Tensor, window: int | None = None
) -> Tensor:
    """The attention mask of a prefix LM: bool `[B, 1, S, S]`, true where query attends to key.

    `attention_mask` [B, S] is 0 for padding; `token_type_ids` [B, S] is 0 for image and prefix, 1
    for the suffix. Image and prefix attend to each other; the suffix attends to them, and to itself
    up to the query. Nothing attends to padding. With a `window`, a query attends only to the last
    `window` positions up to its own, except inside the prefix, which stays whole (as transformers
    has it).
    """
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    distance = position[:, None] - position[None, :]  # query, key
    causal = distance >= 0
    if window is not None:
        causal = causal & (distance < window)
    prefix = token_type_ids == 0
    allowed = causal | (prefix[:, :, None] & prefix[:, None, :])
    return (allowed & attention_mask.bool()[:, None, :])[:, None]


def loss_mask(labels: Tensor) -> Tensor:
    """bool [B, T]: the positions whose next token has a label. `labels` [B, T], -100 = ignored."""
    return F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))


def suffix_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the next token, a mean for each example, then over the batch (big_vision).

    `logits` [n, V] are those of the n positions in the `loss_mask` of `labels` [B, T], row by row.
    `smoothing` is the share of each target that is spread evenly over the vocabulary.
    """
    mask = loss_mask(labels)
    targets = labels.roll(-1, 1)[mask]
    losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=smoothing)
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)  # of each token in its example
    return (losses * weights[mask]).sum() / len(labels)


class Connector(nn.Module):
    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.vision_config.hidden_size, config.projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)


class PaliGemmaForConditionalGeneration(nn.Module):
    """The whole model. Encode an image once (`embed_image`), then `prefill` and `decode`."""

    def __init__(self, config: PaliGemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(config.vision_config)
        self.multi_modal_projector = Connector(config)
        self.language_model = GemmaDecoder(config.text_config)

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        """`pixel_values` [B, 3, R, R] in -1..1 -> image tokens [B, P, D]."""
        features = self.multi_modal_projector(self.vision_tower(pixel_values))
        return features.to(self.language_model.embed_tokens.device)  # where answers begin

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """`ids` [B, T] -> [B, T, D], times sqrt(D) as the dtype rounds it (Gemma)."""
        x = self.language_model.embed_tokens(ids)
        return x * torch.full((), x.shape[-1] ** 0.5, dtype=x.dtype, device=x.device)

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` [..., D] -> logits of every token [..., V], through the tied embedding table."""
        table = self.language_model.embed_tokens
        logits = table.logits(hidden.to(table.device))  # the last layer may live elsewhere
        cap = self.config.text_config.final_logit_softcapping
        return logits if cap is None else softcap(logits, cap)

    def prefill(
        self,
        input_ids: Tensor,
        image_features: Tensor,
        attention_mask: Tensor,
        kv_cache: KVCache,
        answer_ids: Tensor | None = None,
    ) -> Tensor:
        """Read images and prompts; return the logits [B, V] of the first token of each answer.

        `input_ids` [B, T] with the image token P times for each image of a row, `image_features`
        [images, P, D] in the order of rows, `attention_mask` [B, T]. Shorter prompts are padded on
        the left; raises ValueError if one ends in padding. With `answer_ids` [B, A], first tokens
        of the answers, the logits are those of the next token.
        """
        token_type_ids = None
        if answer_ids is not None and answer_ids.shape[1]:
            is_prompt, is_answer = torch.zeros_like(input_ids), torch.ones_like(answer_ids)
            token_type_ids = torch.cat([is_prompt, is_answer], 1)
            attention_mask = torch.cat([attention_mask, is_answer], 1)
            input_ids = torch.cat([input_ids, answer_ids], 1)
        hidden = self.forward_features(
            input_ids, image_features, attention_mask, token_type_ids, kv_cache
        )
        return self.logits(hidden[:, -1])

    def decode(self, ids: Tensor, kv_cache: KVCache) -> Tensor:
        """Read the next token of each answer, `ids` [B, 1]; return the logits [B, V] after it."""
        return self.logits(self._decode(ids, None, kv_cache)[:, -1])

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        kv_cache: KVCache | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Any]:
        """Return {"logits" [B, T, V], "kv_cache"}, or {"loss"} where `labels` [B, T] are given.

        `token_type_ids` [B, T]: 0 = image and prefix, 1 = suffix; without it all is prefix. A loss
        needs the logits of the labelled tokens only, and computes no others.

        Called again with a filled cache, it continues: `input_ids` [B, 1] is the next token, and
        `attention_mask` [B, S], if given, covers the positions in the cache and the new one. The
        image is in the cache, so `pixel_values` are not encoded again.
        """
        if labels is not None and token_type_ids is None:
            raise ValueError(
                "labels need token_type_ids: 0 for image and prefix, 1 for the suffix."
            )
        if kv_cache is not None and kv_cache.length:
            hidden = self._decode(input_ids, attention_mask, kv_cache)
        else:
            features = None if pixel_values is None else self.embed_image(pixel_values)
            hidden = self.forward_features(
                input_ids, features, attention_mask, token_type_ids, kv_cache
            )
        if labels is None:
            return {"logits": self.logits(hidden), "kv_cache": kv_cache}
        logits = self.logits(hidden[loss_mask(labels)])
        return {"loss": suffix_loss(logits, labels, label_smoothing)}

    def _embed(self, input_ids: Tensor, image_features: Tensor | None) -> Tensor:
        """Scaled text embeddings [B, T, D], with the image features, unscaled, in their places."""
        is_image = input_ids == self.config.image_token_index
        images, each = (0, 0) if image_features is None else image_features.shape[:2]
        if not torch.compiler.is_compiling():
            counts = is_image.sum(1).tolist()
            fits = all(count and count % each == 0 for count in counts) if each else True
            if not fits or sum(counts) != images * each:
                raise ValueError(
                    f"rows of input_ids hold {counts} image tokens (id "
                    f"{self.config.image_token_index}); each must hold {each}"
                    f"{f' for each of its images, of which there are {images}' if each else ''}."
                )
        # The table may end before the image token's id, so its own row is never looked up.
        x = self.embed_tokens(input_ids.masked_fill(is_image, self.config.pad_token_id))
        if image_features is None:
            return x
        if (recorder := active_recorder()) is not None:
            recorder.start(is_image)
        return x.masked_scatter(is_image[..., None], image_features.to(x))

    def forward_features(
        self,
        input_ids: Tensor,
        image_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> Tensor:
        """Run the decoder over whole sequences, from their first token: [B, T, D].

        `image_features` [images, P, D] are those of `embed_image`; the rest is as in `forward`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # flash attention, which a GPU has, takes no mask; a prefix without padding needs none
        is_whole = token_type_ids is None and input_ids.is_cuda
        is_whole = is_whole and not torch.compiler.is_compiling() and bool(attention_mask.all())
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        if kv_cache is not None and not is_whole and not attention_mask[:, -1].all():
            raise ValueError("a prompt ends in padding; for generation, pad prompts on the left.")
        x = self._embed(input_ids, image_features)
        positions = attention_mask.long().cumsum(1)  # from 1, as transformers counts
        mask = local_mask = None
        if not is_whole:
            mask = prefix_lm_mask(attention_mask, token_type_ids)
            window = self.config.text_config.sliding_window
            if window is not None and window < x.shape[1]:
                local_mask = prefix_lm_mask(attention_mask, token_type_ids, window)
        if kv_cache is not None:
            kv_cache.reserve(attention_mask.bool())
        hidden = self.language_model(x, positions, mask, local_mask, kv_cache)
        if kv_cache is not None:
            kv_cache.length += x.shape[1]
        return hidden

    def _decode(self, ids: Tensor, attention_mask: Tensor | None, kv_cache: KVCache) -> Tensor:
        """Run the decoder over one token that follows those in the cache: [B, 1, D]."""
        if ids.ndim != 2 or ids.shape[1] != 1:
            raise ValueError(f"a filled cache is continued with ids [B, 1], not {list(ids.shape)}.")
        new = torch.ones_like(ids, dtype=torch.bool)
        if attention_mask is not None:
            new = self._check_continued(attention_mask.bool(), ids, kv_cache)
        kv_cache.reserve(new)
        valid = kv_cache.valid[:, : kv_cache.length + 1]
        window, local_mask = self.config.text_config.sliding_window, None
        if window is not None and window < valid.shape[1]:
            local_mask = valid.clone()
            local_mask[:, :-window] = False
            local_mask = local_mask[:, None, None]
        hidden = self.language_model(
            self.embed_tokens(ids),
            valid.sum(1, keepdim=True),
            valid[:, None, None],
            local_mask,
            kv_cache,
        )
        kv_cache.length += 1
        return hidden

    @staticmethod
    def _check_continued(mask: Tensor, ids: Tensor, kv_cache: KVCache) -> Tensor:
        """The new position of a mask [B, S + 1] whose others are those of the cache: [B, 1]."""
        length = kv_cache.length
        if mask.shape != (len(ids), length + 1):
            raise ValueError(
                f"attention_mask is {list(mask.shape)}; with {length} positions in the cache and "
                f"ids {list(ids.shape)} it must be [{len(ids)}, {length + 1}]."
            )
        filled = kv_cache.valid[:, :length]
        if len(filled) == len(mask) and not torch.equal(mask[:, :-1], filled.to(mask.device)):
            raise ValueError("attention_mask differs from the one that the cache was filled with.")
        return mask[:, -1:]
