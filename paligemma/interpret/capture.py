"""Attention weights of the decoder and the vision tower, recorded while the model runs.

with capture_attention(model) as maps:
    model(input_ids, pixel_values, attention_mask)
maps[0].image  # [L, N, Q, P]: from each text position of the first sequence to each patch

Off by default; the model is not changed, and runs in other threads are not recorded. Only the rows
of text positions are stored: 4 bytes for each layer, head, text position and key, which is 0.3 GB
for a prompt and 100 tokens about 4096 patches in PaliGemma 3B.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.devices import format_bytes, free_memory
from paligemma.interpret.views import AttentionWeights
from paligemma.models.gemma import RECORDER
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration
from paligemma.models.siglip import SiglipEncoderLayer


class AttentionMaps:
    """Recorded attention: an `AttentionWeights` for each sequence, once the block has ended.

    If several batches are read in one block, the last counts.
    """

    def __init__(self, num_layers: int) -> None:
        self._chunks: list[list[Tensor]] = [[] for _ in range(num_layers)]  # [B, N, T, S] each
        self._starts: list[int] = []  # position of the first image token in each sequence
        self._patches = 0
        self._sequences: list[AttentionWeights] | None = None

    def start(self, is_image: Tensor) -> None:
        self._starts, self._patches = is_image.int().argmax(1).tolist(), int(is_image[0].sum())
        for chunks in self._chunks:
            chunks.clear()

    def record(
        self, layer: int, weights: Callable[[slice], Tensor], value: Tensor, output: Tensor
    ) -> None:
        if not self._starts:
            raise ValueError("start capture_attention before the image is read, not after.")
        # the first call also has the image tokens as queries, later ones answer tokens only
        queries = slice(0 if self._chunks[layer] else self._first_text, None)
        self._chunks[layer].append(weights(queries).detach())

    @property
    def _first_text(self) -> int:
        return min(self._starts) + self._patches

    def finish(self) -> None:
        """Sort the recorded chunks by sequence, a layer at a time, and free them."""
        if self._sequences is not None or not self._chunks[0]:
            return
        length = self._chunks[0][-1].shape[-1]
        layers, heads = len(self._chunks), self._chunks[0][0].shape[1]
        counts = [length - start - self._patches for start in self._starts]
        to_image = [torch.empty(layers, heads, count, self._patches) for count in counts]
        to_text = [torch.zeros(layers, heads, count, count) for count in counts]
        for layer, chunks in enumerate(self._chunks):
            query = self._first_text  # position of the chunk's first query
            while chunks:
                chunk = chunks.pop(0).to("cpu", torch.float32)
                for index, start in enumerate(self._starts):
                    text = start + self._patches
                    skip = max(text - query, 0)  # a shorter prompt begins later
                    queries = slice(query + skip - text, query + chunk.shape[2] - text)
                    keys = slice(0, chunk.shape[-1] - text)
                    to_image[index][layer, :, queries] = chunk[index, :, skip:, start:text]
                    to_text[index][layer, :, queries, keys] = chunk[index, :, skip:, text:]
                query += chunk.shape[2]
        pairs = zip(to_image, to_text, strict=True)
        self._sequences = [AttentionWeights(image.numpy(), text.numpy()) for image, text in pairs]

    def __getitem__(self, sequence: int) -> AttentionWeights:
        if self._sequences is None:
            raise ValueError(
                "no attention was recorded: the block is still open, or no (uncompiled) model ran "
                "in it."
            )
        return self._sequences[sequence]


@contextmanager
def capture_attention(model: PaliGemmaForConditionalGeneration) -> Iterator[AttentionMaps]:
    """Record the decoder's attention inside this block; read it when the block has ended."""
    maps = AttentionMaps(model.config.text_config.num_hidden_layers)
    token = RECORDER.set(maps)
    try:
        yield maps
    finally:
        RECORDER.reset(token)
        maps.finish()


@torch.inference_mode()
def tower_attention(
    model: PaliGemmaForConditionalGeneration, pixel_values: Tensor, patches: Sequence[int]
) -> Tensor:
    """Attention weights of some patches in the vision tower: [L, N, patches, P] float32.

    `pixel_values` [1, 3, R, R]. One more pass of the tower; only these patches' rows are computed.
    """
    tower, rows = model.vision_tower, []
    x = tower.embeddings(pixel_values.to(tower.post_layernorm.weight.dtype))
    for block in tower.encoder.layers:
        assert isinstance(block, SiglipEncoderLayer)
        attention, normed = block.self_attn, block.layer_norm1(x)
        queries = attention.q_proj(normed)[0, list(patches)]
        q, k = (
            y.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for y in (queries, attention.k_proj(normed)[0])
        )
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        rows.append(scores.softmax(-1).cpu())
        x = block(x)
    return torch.stack(rows)


class _GraphRecorder:
    """Records weights, values and attention outputs of one pass that autograd follows."""

    def __init__(self) -> None:
        self.image = self.text = slice(0)  # the positions of the image tokens, and those after
        self.weights: list[Tensor] = []  # [N, Q, S] of the text positions
        self.values: list[Tensor] = []  # [K, S, H]
        self.outputs: list[Tensor] = []  # [1, N, T, H], in the graph

    def start(self, is_image: Tensor) -> None:
        positions = is_image[0].nonzero()[:, 0]
        self.image = slice(int(positions[0]), int(positions[-1]) + 1)
        self.text = slice(self.image.stop, None)

    def record(
        self, layer: int, weights: Callable[[slice], Tensor], value: Tensor, output: Tensor
    ) -> None:
        with torch.no_grad():
            self.weights.append(weights(self.text)[0])
        self.values.append(value[0].detach())
        self.outputs.append(output)


def gradient_attention(
    model: PaliGemmaForConditionalGeneration,
    input_ids: Tensor,
    image_features: Tensor,
    token_type_ids: Tensor,
    positions: Sequence[int],
    check: Callable[[], object] = lambda: None,
) -> Tensor:
    """Attention times its gradient, for the answer tokens at `positions`: [L, tokens, P] float32.

    `input_ids`, `token_type_ids` [1, T] are image, prompt and answer, `image_features` [1, P, D].
    A token's logit is differentiated by every attention weight of the text positions; a weight
    times that gradient, where positive, is its contribution to the logit, to first order. The mean
    over heads is propagated from the patches through the text positions, up to each layer (Chefer
    et al., arXiv 2103.15679). One backward pass a token, before which `check` is called: what it
    raises ends the work. Raises ValueError if autograd cannot run: the model is spread over
    devices, or the activations need more memory than there is.
    """
    _check_backward(model, input_ids.shape[1])
    recorder = _GraphRecorder()
    with torch.inference_mode(False), torch.enable_grad():
        features = image_features.detach().clone().requires_grad_()
        token = RECORDER.set(recorder)
        try:
            hidden = model.forward_features(
                input_ids.clone(), features, token_type_ids=token_type_ids.clone()
            )
        finally:
            RECORDER.reset(token)
        maps = []
        for position in positions:
            check()
            query = position - 1  # a token is predicted at the position before it
            logit = model.logits(hidden[:, query])[0, input_ids[0, position]]
            gradients = torch.autograd.grad(logit, recorder.outputs, retain_graph=True)
            maps.append(_propagate(recorder, gradients)[:, query - recorder.text.start])
    if not maps:
        return torch.zeros(len(recorder.outputs), 0, image_features.shape[1])
    return torch.stack(maps, 1)


@torch.no_grad()
def _propagate(recorder: _GraphRecorder, gradients: Sequence[Tensor]) -> Tensor:
    """Relevance of each patch to each text position, up to each layer: [L, Q, P].

    `gradients` [1, N, T, H] are those of the attention outputs, weights [N, Q, S] @ v [K, S, H].
    The weights' own gradients are these @ v transposed.
    """
    relevance, layers = None, []
    recorded = zip(recorder.weights, recorder.values, gradients, strict=True)
    for weights, v, gradient in recorded:
        N, Q, S = weights.shape
        K, _, H = v.shape
        rows = gradient[0, :, -Q:].reshape(K, N // K * Q, H)
        of_weights = (rows @ v.transpose(-1, -2)).view(N, Q, S).float()
        positive = F.relu(weights * of_weights).mean(0).cpu()
        image, text = positive[:, recorder.image], positive[:, recorder.text]
        relevance = image if relevance is None else relevance + text @ relevance + image
        layers.append(relevance)
    return torch.stack(layers)


def _check_backward(model: PaliGemmaForConditionalGeneration, length: int) -> None:
    """Raises ValueError if a backward pass through the decoder cannot run."""
    if hasattr(model, "hf_device_map"):
        raise ValueError(
            "Gradient-weighted attention needs a backward pass, and this model is spread over "
            "devices or the disk; choose another view."
        )
    text, table = model.config.text_config, model.language_model.embed_tokens
    heads = text.num_attention_heads
    attention = 4 * heads * (text.head_dim + length)  # float32 scores where no kernel fuses them
    position = 12 * text.hidden_size + 6 * text.intermediate_size + attention
    needed = text.num_hidden_layers * length * position * table.dtype.itemsize
    if needed > (free := free_memory(table.device)):
        raise ValueError(
            f"Gradient-weighted attention needs about {format_bytes(needed)} for a backward pass, "
            f"and {table.device} has {format_bytes(free)} free; choose another view."
        )


@torch.inference_mode()
def word_similarity(
    model: PaliGemmaForConditionalGeneration, image_features: Tensor, ids: Sequence[int]
) -> Tensor:
    """Cosine similarity of each patch and a word, both as the decoder's input: [P] float32.

    `image_features` [P, D] are the connector's output; a word of several tokens `ids` is their
    mean. No attention is involved.
    """
    table = model.language_model.embed_tokens
    word = table(torch.tensor(ids, device=table.device)).float().mean(0)
    return F.cosine_similarity(image_features.to(table.device).float(), word, dim=-1).cpu()
