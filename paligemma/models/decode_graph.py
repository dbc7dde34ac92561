"""Decoding on a CUDA device: each step replays one captured graph.

A step of the decoder is hundreds of kernels, and to launch them one by one takes longer than to run
them. A captured graph launches all at once, but reads and writes the same memory each time: so the
step here has static shapes. Its cache has room for the whole answer from the start, and how far it
is filled is a tensor that the step itself advances.

    with decoder(model, batch, length, device, dtype) as decode:
        logits = model.prefill(..., decode.kv_cache)
        logits = decode(ids)  # once a token

Where nothing can be captured (another kind of device, a recorder, autocast, hooks as those of
accelerate, a step that failed to capture) it calls `model.decode`.
"""

import threading
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from paligemma.config import TextConfig
from paligemma.models.gemma import KVCache, active_recorder
from paligemma.models.paligemma import PaliGemmaForConditionalGeneration

LENGTH_MULTIPLE = 128  # of a cache's length, so that answers can share a graph
MAX_IDLE = 4  # graphs that a model keeps for later answers

SETTING_TYPES = (bool, int, float, str, list, dict)  # of attributes that a graph has baked in
MODULE_ATTRIBUTES = vars(nn.Module()).keys()  # those of every module, which are no settings
CAPTURE: ContextVar[bool] = ContextVar("CAPTURE", default=True)  # false: never capture


class StaticCache(KVCache):
    """The tensors of `cache`, written at the position `index` [1]; all positions are returned."""

    def __init__(self, cache: KVCache, index: Tensor) -> None:
        super().__init__()
        self.k, self.v, self.valid, self.grows = cache.k, cache.v, cache.valid, False
        self.index = index

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k[layer].index_copy_(2, self.index, k)
        self.v[layer].index_copy_(2, self.index, v)
        return self.k[layer], self.v[layer]


class StaticStep:
    """A decode step on tensors that stay where they are, for one batch of answers at a time.

    Prefill fills `cache`. Then a call reads the next token of each answer, `ids` [B, 1], and
    returns the logits [B, V] after it, which the next call overwrites. On a CUDA device the first
    call warms up, the second captures, and all from then on replay. On others nothing is captured.
    Only a thread that has warmed up captures: cuBLAS's handles are its own, and none can be made
    during a capture.
    """

    def __init__(
        self,
        config: TextConfig,
        batch: int,
        length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.window, self.cap = config.sliding_window, config.attn_logit_softcapping
        self.cache = KVCache.allocate(config, batch, length, device, dtype)
        self.ids = torch.zeros(batch, 1, dtype=torch.long, device=device)
        self.index = torch.zeros(1, dtype=torch.long, device=device)  # of the token that is read
        self.positions = torch.zeros(batch, 1, dtype=torch.long, device=device)  # of that before
        self.order = torch.arange(length, device=device)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor | None = None
        self._warm_thread: int | None = None
        self._is_started = False

    @torch.inference_mode()
    def reset(self) -> None:
        """Empty the cache, so that other answers find nothing of the last ones."""
        for tensor in (*self.cache.k, *self.cache.v, self.cache.valid):
            tensor.zero_()
        self.cache.length, self._is_started = 0, False

    @torch.inference_mode()
    def __call__(self, model: PaliGemmaForConditionalGeneration, ids: Tensor) -> Tensor:
        if not self._is_started:
            self.index.fill_(self.cache.length)
            torch.sum(self.cache.valid, 1, keepdim=True, out=self.positions)
            self._is_started = True
        self.ids.copy_(ids)
        if self.stream is None:
            logits = self.step(model)
        elif self.graph is None and self._warm_thread != threading.get_ident():
            logits = self._warm_up(model)
        else:
            if self.graph is None:
                self._capture(model)
            assert self.graph is not None and self.logits is not None
            self.graph.replay()
            logits = self.logits
        self.cache.length += 1
        return logits

    def step(self, model: PaliGemmaForConditionalGeneration) -> Tensor:
        """What is captured: no shape and no number of it depends on how far the cache is filled."""
        self.positions += 1
        self.cache.valid.index_fill_(1, self.index, True)
        x = model.embed_tokens(self.ids)
        mask, local_mask = self.cache.valid[:, None, None], None
        if self.window is not None and self.window < self.cache.max_length:
            local_mask = self._mask(mask & (self.order > self.index - self.window), x.dtype)
        static = StaticCache(self.cache, self.index)
        mask = self._mask(mask, x.dtype)
        hidden = model.language_model(x, self.positions, mask, local_mask, static)
        logits = model.logits(hidden[:, -1])
        self.index += 1
        return logits

    def _mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """As attention adds it to the scores; each layer would make it again of a bool one."""
        if self.cap is not None:
            return mask
        added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return added.masked_fill_(~mask, -torch.inf)

    def _warm_up(self, model: PaliGemmaForConditionalGeneration) -> Tensor:
        """The step as it is, on another stream than the default one, which cannot capture."""
        assert self.stream is not None
        current = torch.cuda.current_stream(self.ids.device)
        self.stream.wait_stream(current)
        with _CAPTURING, torch.cuda.stream(self.stream):
            logits = self.step(model)
        current.wait_stream(self.stream)
        logits.record_stream(current)
        self._warm_thread = threading.get_ident()
        return logits

    def _capture(self, model: PaliGemmaForConditionalGeneration) -> None:
        graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")
        # one that fails would leave the thread on its stream, so the former is set again around it
        current = torch.cuda.stream(torch.cuda.current_stream(self.ids.device))
        with _CAPTURING, current, capture:
            logits = self.step(model)
        self.graph, self.logits = graph, logits


_CAPTURING = threading.Lock()  # one at a time: torch has few streams, and two steps may share one
_LOCK = threading.RLock()  # again in one thread, if garbage collection closes a generator meanwhile
Idle = list[tuple[Hashable, Hashable, StaticStep]]  # weights, shape; the last used at the end
_IDLE: WeakKeyDictionary[nn.Module, Idle] = WeakKeyDictionary()
_FAILED: WeakSet[nn.Module] = WeakSet()


class Decoder:
    """Decodes the tokens of one batch of answers, after prefill filled `kv_cache`."""

    def __init__(
        self,
        model: PaliGemmaForConditionalGeneration,
        kv_cache: KVCache,
        static: StaticStep | None = None,
    ) -> None:
        self.kv_cache = kv_cache
        self._model, self._static = model, static

    @property
    def is_ahead(self) -> bool:
        """Whether the next call returns at once, while the device computes."""
        return self._static is not None and self._static.graph is not None

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> Tensor:
        """`ids` [B, 1] -> logits [B, V], which the next call may overwrite."""
        if active_recorder() is not None:
            self._static = None  # for good: from here on only the host knows the place in the cache
        if self._static is not None:
            try:
                return self._static(self._model, ids)
            except RuntimeError as error:
                warnings.warn(f"decoding without a CUDA graph: {error}", stacklevel=2)
                if not isinstance(error, torch.OutOfMemoryError):  # which may be over soon
                    _FAILED.add(self._model)
                self._static = None
        return self._model.decode(ids, self.kv_cache)


@contextmanager
def decoder(
    model: PaliGemmaForConditionalGeneration,
    batch: int,
    length: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Decoder]:
    """A decoder with an empty cache for `length` positions."""
    config = model.config.text_config
    if not can_capture(model, device):
        yield Decoder(model, KVCache.allocate(config, batch, length, device, dtype))
        return
    weights = _weights(model)
    shape = (batch, -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, device, dtype)
    static = _take(model, weights, shape) or StaticStep(config, *shape)
    static.reset()
    decode = Decoder(model, static.cache, static)
    try:
        yield decode
    finally:
        if decode.is_ahead:
            _put_back(model, weights, shape, static)


def can_capture(model: PaliGemmaForConditionalGeneration, device: torch.device) -> bool:
    """Whether every kernel of a step runs on one CUDA device, and nobody watches the step."""
    if device.type != "cuda" or not CAPTURE.get() or model in _FAILED or model.training:
        return False
    if torch.is_autocast_enabled("cuda"):  # its copies of weights go when its block ends
        return False
    if active_recorder() is not None or device.index != torch.cuda.current_device():
        return False
    decoder = model.language_model
    return all(
        not (hasattr(module, "_hf_hook") or module._forward_hooks or module._forward_pre_hooks)
        for module in decoder.modules()
    ) and all(weight.device == device for weight in _tensors(decoder))


def captured_graphs(model: PaliGemmaForConditionalGeneration) -> int:
    """How many graphs of the model wait for its next answers."""
    return sum(static.graph is not None for _, _, static in _IDLE.get(model, []))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _weights(model: PaliGemmaForConditionalGeneration) -> Hashable:
    """What a graph has of the decoder: its modules, with their settings, and where its tensors are.

    A tensor may change in place, as by an adapter that is merged: a replay reads it anew.
    """
    decoder = model.language_model
    modules = tuple((id(module), _settings(module)) for module in decoder.modules())
    return modules, tuple((tensor.data_ptr(), tensor.dtype) for tensor in _tensors(decoder))


def _settings(module: nn.Module) -> str:
    """The numbers of a module that are not tensors, as printed: peft has them in dictionaries."""
    return str(
        {
            name: value
            for name, value in vars(module).items()
            if name not in MODULE_ATTRIBUTES and type(value) in SETTING_TYPES
        }
    )


def _take(model: nn.Module, weights: Hashable, shape: Hashable) -> StaticStep | None:
    """An idle step of that shape, which nobody else gets; those of other weights are freed."""
    with _LOCK:
        idle = [one for one in _IDLE.get(model, []) if one[0] == weights]
        found = next((one for one in reversed(idle) if one[1] == shape), None)
        _IDLE[model] = [one for one in idle if one is not found]
    return None if found is None else found[2]


def _put_back(model: nn.Module, weights: Hashable, shape: Hashable, static: StaticStep) -> None:
    with _LOCK:
        _IDLE[model] = [*_IDLE.get(model, []), (weights, shape, static)][-MAX_IDLE:]
