"""Where the model looks: attention weights, taken from the model while it runs.

with capture_attention(model) as maps:
    model(input_ids, pixel_values, attention_mask)
maps[0].image  # [L, N, Q, P]: what each text column of the first row made of each patch

Off by default; the model is not changed, and another thread's run is not heard. Kept are the text
columns' rows alone: 4 bytes for each layer, head, text column and column seen, which is 0.3 GB for
a prompt and 100 tokens about 4096 patches in PaliGemma 3B.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from paligemma.devices import free_bytes, gigabytes
from paligemma.interpret.views import AttentionWeights
from paligemma.models.gemma import RECORDER
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration


class AttentionMaps:
    """Records one model's attention: an `AttentionWeights` for each row, once the block ends.

    Of several pictures read in one block, the last counts.
    """

    def __init__(self, num_layers: int) -> None:
        self._pieces: list[list[Tensor]] = [[] for _ in range(num_layers)]
        self._starts: list[int] = []  # the picture's first column in each row
        self._patches = 0
        self._rows: list[AttentionWeights] | None = None

    def locate(self, is_image: Tensor) -> None:
        self._starts, self._patches = is_image.int().argmax(1).tolist(), int(is_image[0].sum())
        for pieces in self._pieces:
            pieces.clear()

    def __call__(
        self, layer: int, weigh: Callable[[slice], Tensor], v: Tensor, mixed: Tensor
    ) -> None:
        if not self._starts:
            raise ValueError("start capture_attention before the picture is read, not after.")
        self._pieces[layer].append(weigh(self._wanted(layer)).detach())

    def _wanted(self, layer: int) -> slice:
        """The text columns of the first call; later calls bring nothing else."""
        return slice(0 if self._pieces[layer] else self._first_text, None)

    @property
    def _first_text(self) -> int:
        return min(self._starts) + self._patches

    def finish(self) -> None:
        """Sort what was heard into rows, a layer at a time; the pieces are let go."""
        if self._rows is not None or not self._pieces[0]:
            return
        length = self._pieces[0][-1].shape[-1]
        layers, heads = len(self._pieces), self._pieces[0][0].shape[1]
        texts = [length - start - self._patches for start in self._starts]
        images = [torch.empty(layers, heads, text, self._patches) for text in texts]
        between = [torch.zeros(layers, heads, text, text) for text in texts]
        for layer, pieces in enumerate(self._pieces):
            at = self._first_text
            while pieces:
                piece = pieces.pop(0).to("cpu", torch.float32)
                for row, start in enumerate(self._starts):
                    text = start + self._patches
                    skip = max(text - at, 0)  # a shorter prompt begins later
                    rows = slice(at + skip - text, at + piece.shape[2] - text)
                    columns = slice(0, piece.shape[-1] - text)
                    images[row][layer, :, rows] = piece[row, :, skip:, start:text]
                    between[row][layer, :, rows, columns] = piece[row, :, skip:, text:]
                at += piece.shape[2]
        pairs = zip(images, between, strict=True)
        self._rows = [AttentionWeights(image.numpy(), text.numpy()) for image, text in pairs]

    def __getitem__(self, row: int) -> AttentionWeights:
        if self._rows is None:
            raise ValueError(
                "no attention is at hand: the block goes on, or no (uncompiled) model ran in it."
            )
        return self._rows[row]


@contextmanager
def capture_attention(model: PaliGemmaForConditionalGeneration) -> Iterator[AttentionMaps]:
    """Record what `model` attends to inside this block; read it when the block has ended."""
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
    """Where patches look while the tower reads one picture: [L, N, patches, P] float32.

    `pixel_values` [1, 3, R, R]. One more pass of the tower; only the rows asked for are worked out.
    """
    tower, rows = model.vision_tower, []
    x = tower.embeddings(pixel_values.to(tower.post_layernorm.weight.dtype))
    for block in tower.encoder.layers:
        attention, normed = block.self_attn, block.layer_norm1(x)
        asked = attention.q_proj(normed)[0, list(patches)]
        q, k = (
            y.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for y in (asked, attention.k_proj(normed)[0])
        )
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        rows.append(scores.softmax(-1).cpu())
        x = block(x)
    return torch.stack(rows)


class _Graph:
    """Listens to one pass that autograd records: weights and values, and where they were mixed."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor, Tensor]] = []

    def locate(self, is_image: Tensor) -> None:
        columns = is_image[0].nonzero()[:, 0]
        self.picture = slice(int(columns[0]), int(columns[-1]) + 1)
        self.text = slice(self.picture.stop, None)

    def __call__(
        self, layer: int, weigh: Callable[[slice], Tensor], v: Tensor, mixed: Tensor
    ) -> None:
        with torch.no_grad():
            weights = weigh(self.text)[0]
        self.layers.append((weights, v[0].detach(), mixed))


def gradient_attention(
    model: PaliGemmaForConditionalGeneration,
    input_ids: Tensor,
    image_features: Tensor,
    token_type_ids: Tensor,
    columns: Sequence[int],
) -> Tensor:
    """Attention times its gradient, for the answer's tokens at `columns`: [L, columns, P] float32.

    `input_ids`, `token_type_ids` [1, T] are picture, prompt and answer, `image_features` [1, P, D].
    A token's logit is differentiated by every weight of the text columns; a weight times that
    gradient, where it is positive, is what looking there did for the token, to first order. The
    heads' mean is followed from the patches through the text columns, up to each layer (Chefer et
    al., arXiv 2103.15679). One backward pass a token. ValueError where autograd cannot run: a model
    that is spread over devices, or more activations than there is memory.
    """
    _refuse_backward(model, input_ids.shape[1])
    graph = _Graph()
    with torch.inference_mode(False), torch.enable_grad():
        features = image_features.detach().clone().requires_grad_()
        token = RECORDER.set(graph)
        try:
            hidden = model.forward_features(
                input_ids.clone(), features, token_type_ids=token_type_ids.clone()
            )
        finally:
            RECORDER.reset(token)
        mixed = [layer[2] for layer in graph.layers]
        maps = []
        for column in columns:
            logit = model.logits(hidden[:, column - 1])[0, input_ids[0, column]]
            slopes = torch.autograd.grad(logit, mixed, retain_graph=True)
            maps.append(_followed(graph, slopes)[:, column - 1 - graph.text.start])
    if not maps:
        return torch.zeros(len(mixed), 0, image_features.shape[1])
    return torch.stack(maps, 1)


@torch.no_grad()
def _followed(graph: _Graph, slopes: Sequence[Tensor]) -> Tensor:
    """What reached each text column from each patch, up to each layer: [L, R, P].

    `slopes` [1, N, T, H] are the gradients of the mixture, weights [N, R, S] @ v [K, S, H].
    The weights' own are slope @ v transposed.
    """
    held, reached = None, []
    for (weights, v, _), slope in zip(graph.layers, slopes, strict=True):
        N, R, S = weights.shape
        K, _, H = v.shape
        rows = slope[0, :, -R:].reshape(K, N // K * R, H)
        gradient = (rows @ v.transpose(-1, -2)).view(N, R, S).float()
        useful = F.relu(weights * gradient).mean(0).cpu()
        image, text = useful[:, graph.picture], useful[:, graph.text]
        held = image if held is None else held + text @ held + image
        reached.append(held)
    return torch.stack(reached)


def _refuse_backward(model: PaliGemmaForConditionalGeneration, length: int) -> None:
    """ValueError where a backward pass through the decoder cannot run."""
    if hasattr(model, "hf_device_map"):
        raise ValueError(
            "Gradient-weighted attention needs a backward pass, and this model is spread over "
            "devices or the disk; choose another view."
        )
    text, table = model.config.text_config, model.language_model.embed_tokens.weight
    heads = text.num_attention_heads
    mixing = 4 * heads * (text.head_dim + length)  # float32 scores where nothing fused holds them
    column = 12 * text.hidden_size + 6 * text.intermediate_size + mixing
    needed = text.num_hidden_layers * length * column * table.dtype.itemsize
    if needed > (free := free_bytes(table.device)):
        raise ValueError(
            f"Gradient-weighted attention needs about {gigabytes(needed)} for a backward pass, and "
            f"{table.device} has {gigabytes(free)} free; choose another view."
        )


@torch.inference_mode()
def word_similarity(
    model: PaliGemmaForConditionalGeneration, image_features: Tensor, ids: Sequence[int]
) -> Tensor:
    """How alike each patch is to a word, as the decoder reads both: [P], cosines -1..1, float32.

    `image_features` [P, D] come out of the connector; a word of several tokens `ids` is their mean.
    No attention at all: what a patch says before any prompt is read.
    """
    table = model.language_model.embed_tokens.weight
    word = table[list(ids)].float().mean(0)
    return F.cosine_similarity(image_features.to(table.device).float(), word, dim=-1).cpu()
