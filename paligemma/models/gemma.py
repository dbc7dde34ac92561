"""The Gemma decoder, first and second generation: RoPE, attention, MLP, block, cache.

    embeddings -> L x [norm, attention, (norm) | norm, MLP, (norm)] -> norm

Source: Gemma (arXiv 2403.08295), Gemma 2 (arXiv 2408.00118). What differs between the two is in
TextConfig: query scale, softcaps, sliding window on layers 0, 2, 4, …, and the norms in brackets.
Parameter names are those of transformers 5. The mask and the positions come from the caller, so
the same decoder serves prefill, decoding and packed training.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import TextConfig

CACHE_GROWTH = 256  # token positions that a growing cache adds at a time


class AttentionRecorder(Protocol):
    """Hooks that the model calls while `RECORDER` holds them."""

    def start(self, is_image: Tensor) -> None:
        """A new sequence begins. `is_image` [B, S] marks the positions of its image tokens."""

    def record(
        self, layer: int, weights: Callable[[slice], Tensor], value: Tensor, output: Tensor
    ) -> None:
        """Attention has run in one layer.

        `weights(queries)` computes the attention weights of a slice of the T query positions,
        [B, N, queries, S]. `value` is [B, K, S, H]; `output` [B, N, T, H] is the attention output.
        """


RECORDER: ContextVar[AttentionRecorder | None] = ContextVar("RECORDER", default=None)


def active_recorder() -> AttentionRecorder | None:
    """The recorder in use; none inside torch.compile, which cannot trace a ContextVar."""
    return None if torch.compiler.is_compiling() else RECORDER.get()


class KVCache:
    """Keys and values of the tokens read so far.

    `KVCache()` grows as tokens are read; `KVCache.allocate` reserves all of its memory at once.
    `k`, `v` hold a tensor [B, K, S, H] for each layer; `valid` [B, S] is false at padding; `length`
    is the number of positions filled. Layers write in place; the model advances `length` once a
    call.
    """

    def __init__(self) -> None:
        self.k: list[Tensor] = []
        self.v: list[Tensor] = []
        self.valid = torch.zeros(0, 0, dtype=torch.bool)
        self.length = 0
        self.grows = True

    @classmethod
    def allocate(
        cls,
        config: TextConfig,
        batch: int,
        max_length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "KVCache":
        """A cache of fixed size, for `batch` sequences of up to `max_length` positions."""
        cache = cls()
        cache.grows = False
        shape = (batch, config.num_key_value_heads, max_length, config.head_dim)
        for _ in range(config.num_hidden_layers):
            cache.k.append(torch.zeros(shape, device=device, dtype=dtype))
            cache.v.append(torch.zeros(shape, device=device, dtype=dtype))
        cache.valid = torch.zeros(batch, max_length, device=device, dtype=torch.bool)
        return cache

    @property
    def max_length(self) -> int:
        """Positions that there is memory for."""
        return self.valid.shape[1]

    def reserve(self, valid: Tensor) -> None:
        """Mark the next positions, `valid` [B, T]. Raises ValueError if they do not fit."""
        batch, count = valid.shape
        end = self.length + count
        if self.grows:
            self._grow(end, valid)
        if batch != self.valid.shape[0] or end > self.max_length:
            raise ValueError(
                f"the cache has room for {self.valid.shape[0]} rows of {self.max_length} "
                f"positions, {self.length} filled; {batch} rows of {count} more were given."
            )
        self.valid[:, self.length : end] = valid

    def _grow(self, length: int, like: Tensor) -> None:
        """Make room for `length` positions; an empty cache takes batch and device of `like`."""
        if self.length == 0:
            self.k, self.v, self.valid = [], [], like.new_zeros(len(like), 0, dtype=torch.bool)
        if (missing := length - self.max_length) > 0:
            added = -(-missing // CACHE_GROWTH) * CACHE_GROWTH
            self.k = [F.pad(k, (0, 0, 0, added)) for k in self.k]
            self.v = [F.pad(v, (0, 0, 0, added)) for v in self.v]
            self.valid = F.pad(self.valid, (0, added))

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write `k`, `v` [B, K, T, H] after the filled positions; return these and all before."""
        if layer == len(self.k):  # the first write of a cache that grows
            shape = (*k.shape[:2], self.max_length, k.shape[3])
            self.k.append(k.new_zeros(shape))
            self.v.append(v.new_zeros(shape))
        end = self.length + k.shape[2]
        # a layer that lives on another device takes its part of the cache there, once
        self.k[layer], self.v[layer] = self.k[layer].to(k.device), self.v[layer].to(v.device)
        self.k[layer][:, :, self.length : end] = k
        self.v[layer][:, :, self.length : end] = v
        return self.k[layer][:, :, :end], self.v[layer][:, :, :end]


def can_fuse(x: Tensor) -> bool:
    """Whether a sum may be rounded to the dtype of `x` as it is written, by the same kernel.

    A GPU decodes a token in hundreds of kernels, and most take no longer than their start.
    """
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def rope_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, 1, T, H] of `positions` [B, T], in float32, for `apply_rope`.

    Both halves hold the same angles; the sines of the first are negative.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[:, None, :, None].float() * (1 / theta ** (pairs / head_dim))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (i, i + H/2) of `x` [B, N, T, H] by its angle."""
    swapped = x.roll(x.shape[-1] // 2, -1)
    if can_fuse(x):
        return torch.addcmul(x * cos, swapped, sin, out=torch.empty_like(x))
    return (x * cos + swapped * sin).to(x.dtype)


def softcap(x: Tensor, cap: float) -> Tensor:
    """Limit `x` smoothly to -cap..cap (Gemma 2)."""
    return cap * torch.tanh(x / cap)


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None, scale: float, cap: float | None = None
) -> Tensor:
    """Attention weights: `q` [B, N, T, H], `k` [B, K, S, H] -> [B, N, T, S] float32.

    Each key head is shared by N/K query heads. `mask` [B, 1, T, S] is true where a query may attend
    to a key; without one, all attend to all. Scores are multiplied by `scale`, then softcapped at
    `cap`; weights of a query sum to 1.
    """
    B, N, T, H = q.shape
    K, S = k.shape[1:3]
    scores = q.reshape(B, K, N // K * T, H) @ k.transpose(-1, -2)
    scores = scores.view(B, N, T, S).float() * scale
    if cap is not None:
        scores = softcap(scores, cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


def attention_output(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float | None = None
) -> Tensor:
    """Values `v` [B, K, S, H] averaged by the `attention_weights` of the rest: [B, N, T, H]."""
    B, N, T, H = q.shape
    K, S = k.shape[1:3]
    if cap is None:
        if T == 1:  # heads that share a key are rows of one product: far fewer passes over k and v
            q = q.reshape(B, K, N // K, H)
            return F.scaled_dot_product_attention(q, k, v, mask, scale=scale).reshape(B, N, T, H)
        if mask is not None and q.is_cuda:  # its fused kernel for masks does not share keys
            k, v = (x.repeat_interleave(N // K, 1) for x in (k, v))
            return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
    weights = attention_weights(q, k, mask, scale, cap).to(v.dtype)
    return (weights.view(B, K, N // K * T, S) @ v).view(B, N, T, H)


class RMSNorm(nn.Module):
    """Divide by the root mean square, then scale by 1 + weight, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if can_fuse(x):
            normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)
            return torch.addcmul(normed, normed, self.weight, out=torch.empty_like(x))
        return F.rms_norm(x.float(), x.shape[-1:], 1 + self.weight.float(), self.eps).type_as(x)


class GemmaAttention(nn.Module):
    """Grouped-query attention with RoPE on queries and keys."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        self.cap = config.attn_logit_softcapping
        width = config.hidden_size
        heads = config.num_attention_heads * config.head_dim
        kv_heads = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, heads, bias=False)
        self.k_proj = nn.Linear(width, kv_heads, bias=False)
        self.v_proj = nn.Linear(width, kv_heads, bias=False)
        self.o_proj = nn.Linear(heads, width, bias=False)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        kv_cache: KVCache | None,
        record: Callable[[Callable[[slice], Tensor], Tensor, Tensor], None] | None,  # the hook
    ) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        if kv_cache is not None:
            k, v = kv_cache.write(self.layer, k, v)
        output = attention_output(q, k, v, mask, self.scale, self.cap)
        if record is not None:  # beside the answer's own path: recording changes no bit of it
            weights = lambda queries: attention_weights(
                q[:, :, queries],
                k,
                None if mask is None else mask[:, :, queries],
                self.scale,
                self.cap,
            )
            record(weights, v, output)
        return self.o_proj(output.transpose(1, 2).flatten(2))


class GemmaMLP(nn.Module):
    """GeGLU: one projection gates the other."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class GemmaDecoderLayer(nn.Module):
    """One layer. `post_attention_layernorm`, as published, is one name for two places: it follows
    attention in a model with `post_norms`, and comes before the MLP in one without."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.is_local = config.sliding_window is not None and layer % 2 == 0
        self.post_norms = config.post_norms
        self.self_attn = GemmaAttention(config, layer)
        self.mlp = GemmaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if self.post_norms:
            self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, *context) -> Tensor:
        """`context` is what attention needs besides `x`: rope, mask, kv_cache, record."""
        attention = self.self_attn(self.input_layernorm(x), *context)
        if self.post_norms:
            x = x + self.post_attention_layernorm(attention)
            return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        x = x + attention
        return x + self.mlp(self.post_attention_layernorm(x))


class TokenEmbedding(nn.Embedding):
    """The embedding table, which is the output layer too."""

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` [..., D] -> [..., V]."""
        return F.linear(hidden, self.weight)


class GemmaDecoder(nn.Module):
    """Embeddings in, the last norm's output out. Holds the (tied) embedding table."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            GemmaDecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        local_mask: Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> Tensor:
        """`x` [B, T, D], already scaled -> [B, T, D].

        `positions` [B, T] count the tokens of each sequence. `mask` [B, 1, T, S] is true where a
        query may attend to a key; S is T, or with a cache its filled positions and T more. Without
        one, all attend to all. Where there is no softcap, a float one is added to the scores.
        `local_mask`, the same shape, is for the sliding layers; leave it out where the window
        covers everything.
        """
        rope = rope_table(positions, self.config.head_dim, self.config.rope_theta)
        recorder = active_recorder()
        for index, layer in enumerate(self.layers):
            layer_mask = local_mask if layer.is_local and local_mask is not None else mask
            record = None if recorder is None else partial(recorder.record, index)
            x = layer(x, rope, layer_mask, kv_cache, record)
        return self.norm(x)
