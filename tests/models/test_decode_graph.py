"""The decode step that a GPU captures, run uncaptured, against the ordinary one."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from reference import CONFIGS, ours, prompts
from torch._subclasses import FakeTensorMode

from paligemma.generation import SamplingOptions, stream
from paligemma.interpret.capture import capture_attention
from paligemma.models import decode_graph, gemma
from paligemma.models.decode_graph import StaticStep, decoder
from paligemma.models.gemma import KVCache
from paligemma.models.paligemma import prefix_lm_mask

CPU = torch.device("cpu")
both = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture
def static(monkeypatch):
    """As on a GPU, but for the capture."""
    monkeypatch.setattr(decode_graph, "can_capture", lambda *_: True)


def prefilled(model, inputs, kv_cache):
    with torch.inference_mode():
        features = model.embed_image(inputs["pixel_values"])
        return model.prefill(inputs["input_ids"], features, inputs["attention_mask"], kv_cache)


def answer(model, inputs, eos=7, **options):
    with torch.inference_mode():
        features = model.embed_image(inputs["pixel_values"])
    given = inputs["input_ids"], features, inputs["attention_mask"]
    return list(stream(model, *given, SamplingOptions(**options), eos))


@both
@pytest.mark.parametrize("lengths", [(6,), (3, 9, 5)])
def test_the_static_step_gives_the_same_logits(name, lengths):
    model, inputs = ours(CONFIGS[name]), prompts(*lengths)
    batch, text = len(lengths), model.config.text_config
    static = StaticStep(text, batch, 64, CPU, torch.float32)
    for _ in range(2):  # the second time on the memory of the first
        static.reset()
        kv_cache = KVCache()
        expected = prefilled(model, inputs, kv_cache)
        assert torch.equal(prefilled(model, inputs, static.cache), expected)
        for _ in range(20):
            ids = torch.randint(3, 90, (batch, 1))
            with torch.inference_mode():
                expected = model.decode(ids, kv_cache)
            torch.testing.assert_close(static(model, ids), expected, rtol=1e-4, atol=1e-4)
        assert static.cache.length == kv_cache.length
        filled = static.cache.valid[:, : kv_cache.length]
        assert torch.equal(filled, kv_cache.valid[:, : kv_cache.length])


@both
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_gives_the_same_tokens(name, temperature, monkeypatch):
    model, inputs = ours(CONFIGS[name]), prompts(3, 9)
    options = {"max_new_tokens": 30, "temperature": temperature, "seed": 5}
    expected = answer(model, inputs, **options)
    monkeypatch.setattr(decode_graph, "can_capture", lambda *_: True)
    steps = answer(model, inputs, **options)
    assert [step.ids for step in steps] == [step.ids for step in expected]
    assert [step.finished for step in steps] == [step.finished for step in expected]
    for step, other in zip(steps, expected, strict=True):
        assert step.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_a_step_that_fails_goes_on_without_a_graph(static, monkeypatch, kind):
    model, inputs = ours(CONFIGS["gemma1"]), prompts(6)
    expected = [step.ids for step in answer(model, inputs, max_new_tokens=12)]
    whole, count = StaticStep.step, 0

    def step(self, model):
        nonlocal count
        count += 1
        if count == 4:
            raise kind("operation not permitted when stream is capturing")
        return whole(self, model)

    monkeypatch.setattr(StaticStep, "step", step)
    with pytest.warns(UserWarning, match="without a CUDA graph: operation not permitted"):
        assert [step.ids for step in answer(model, inputs, max_new_tokens=12)] == expected
    assert count == 4
    assert (model in decode_graph._FAILED) == (kind is RuntimeError)  # memory may be free later


def test_a_capture_that_fails_sets_the_former_stream_again(monkeypatch):
    current = ["former"]

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.former, current[0] = current[0], self.stream

        def __exit__(self, *_):
            current[0] = self.former

    class Capture:
        def __init__(self, graph, stream, capture_error_mode):
            self.stream = stream

        def __enter__(self):
            current[0] = self.stream

        def __exit__(self, *_):  # as torch's, it raises before it has set the stream again
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch.cuda, "stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    model = ours(CONFIGS["gemma1"])
    static = StaticStep(model.config.text_config, 1, 64, CPU, torch.float32)
    static.stream = "side"
    with pytest.raises(RuntimeError, match="during capture"), torch.inference_mode():
        static._capture(model)
    assert current == ["former"] and static.graph is None


def test_a_recorder_sees_the_ordinary_steps(static):
    model, inputs = ours(CONFIGS["gemma1"]), prompts(6)
    expected = [step.ids for step in answer(model, inputs, max_new_tokens=8)]
    with capture_attention(model) as maps:
        steps = answer(model, inputs, max_new_tokens=8)
    assert [step.ids for step in steps] == expected
    assert maps[0].image.shape[2] == 6 + 7  # the last token is not read


def test_idle_steps_serve_later_answers_of_the_same_weights(static):
    model = ours(CONFIGS["gemma1"])
    given = (model, 2, 100, CPU, torch.float32)
    weights = decode_graph._weights(model)
    shape = (2, 128, CPU, torch.float32)
    made = StaticStep(model.config.text_config, *shape)
    decode_graph._put_back(model, weights, shape, made)
    with decoder(*given) as one, decoder(*given) as another:
        first, second = one.kv_cache, another.kv_cache
        assert first is made.cache and second is not first  # two at a time share none
        assert second.max_length == 128
    decode_graph._put_back(model, weights, shape, made)
    layer = model.language_model.layers[0].self_attn
    layer.scale *= 2
    with decoder(*given) as other:
        assert other.kv_cache is not made.cache
    layer.scale /= 2
    layer.scaling = {"default": 1.0}  # as peft has it
    decode_graph._put_back(model, decode_graph._weights(model), shape, made)
    layer.scaling["default"] = 0.5
    with decoder(*given) as other:
        assert other.kv_cache is not made.cache
    del layer.scaling
    layer.q_proj.weight = torch.nn.Parameter(layer.q_proj.weight.detach().clone())
    decode_graph._put_back(model, weights, shape, made)
    with decoder(*given) as other:
        assert other.kv_cache is not made.cache
    assert not decode_graph._IDLE[model]
    for _ in range(9):
        decode_graph._put_back(model, weights, shape, made)
    assert len(decode_graph._IDLE[model]) == decode_graph.MAX_IDLE


def test_idle_steps_go_with_their_model():
    model = ours(CONFIGS["gemma1"])
    shape = (1, 128, CPU, torch.float32)
    made = StaticStep(model.config.text_config, *shape)
    decode_graph._put_back(model, decode_graph._weights(model), shape, made)
    gone = weakref.ref(made)
    del made
    assert gone() is not None
    del model
    gc.collect()  # torch's modules may hold each other
    assert gone() is None


def test_a_generator_closed_by_garbage_collection_puts_its_step_back():
    model = ours(CONFIGS["gemma1"])
    shape = (1, 128, CPU, torch.float32)
    made = StaticStep(model.config.text_config, *shape)
    with decode_graph._LOCK:  # in the midst of which Python may collect
        decode_graph._put_back(model, "weights", shape, made)
    assert len(decode_graph._IDLE[model]) == 1


def test_only_a_thread_that_has_warmed_up_captures(monkeypatch):
    model, calls, logits = ours(CONFIGS["gemma1"]), [], torch.zeros(1, 101)
    static = StaticStep(model.config.text_config, 1, 64, CPU, torch.float32)
    static.stream = object()  # as on a GPU

    def warm_up(self, model):
        calls.append("warm up")
        self._warm_thread = decode_graph.threading.get_ident()
        return logits

    def capture(self, model):
        calls.append("capture")
        self.graph, self.logits = SimpleNamespace(replay=lambda: calls.append("replay")), logits

    monkeypatch.setattr(StaticStep, "_warm_up", warm_up)
    monkeypatch.setattr(StaticStep, "_capture", capture)
    step = lambda: static(model, torch.zeros(1, 1, dtype=torch.long))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as another:
        for thread in (one, another, another, one):
            assert thread.submit(step).result() is logits
    assert calls == ["warm up", "warm up", "capture", "replay", "replay"]
    assert static.cache.length == 4


def put_on(device, module):
    """Parameters without numbers, for which no GPU is needed."""
    with FakeTensorMode():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                empty = torch.empty(parameter.shape, device=device)
                setattr(part, name, torch.nn.Parameter(empty))


def test_what_a_cuda_device_captures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    device, model = torch.device("cuda", 0), ours(CONFIGS["gemma2"])
    layer = model.language_model.layers[1]
    can_capture = lambda: decode_graph.can_capture(model, device)
    assert not can_capture()
    put_on(device, model)
    assert can_capture()
    assert not decode_graph.can_capture(model, torch.device("cuda", 1))
    model.train()
    assert not can_capture()
    model.eval()
    hook = layer.register_forward_hook(lambda *_: None)
    assert not can_capture()
    hook.remove()
    layer._hf_hook = None  # accelerate's
    assert not can_capture()
    del layer._hf_hook
    with capture_attention(model):
        assert not can_capture()
    torch.set_autocast_enabled("cuda", True)
    try:
        assert not can_capture()
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert can_capture()
    put_on("cuda:1", layer)
    assert not can_capture()


def test_a_cpu_captures_nothing():
    model = ours(CONFIGS["gemma1"])
    assert not decode_graph.can_capture(model, CPU)
    with decoder(model, 1, 100, CPU, torch.float32) as decode:
        assert decode.kv_cache.max_length == 100


@both
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}])
def test_steps_ahead_change_no_token(name, options, monkeypatch):
    """As on a GPU: the next step is begun before the last token is read, and then goes unused."""
    model, inputs = ours(CONFIGS[name]), prompts(6)
    monkeypatch.setattr(decode_graph, "can_capture", lambda *_: False)
    eos = answer(model, inputs, max_new_tokens=10, **options)[-1].ids[0]
    options = {"max_new_tokens": 30, "eos": eos, **options}
    expected = answer(model, inputs, **options)
    monkeypatch.setattr(decode_graph, "can_capture", lambda *_: True)
    calls, step = [], StaticStep.__call__

    def call(self, model, ids):
        calls.append(ids)
        self.graph = object() if len(calls) > 2 else None
        return step(self, model, ids)

    monkeypatch.setattr(StaticStep, "__call__", call)
    first = answer(model, inputs, **options)
    assert len(calls) == len(first) - 1 + (len(first) > 3)  # one for nothing
    for steps in (first, answer(model, inputs, **options)):  # then in the same memory again
        assert [one.ids for one in steps] == [one.ids for one in expected]
        assert [one.finished for one in steps] == [one.finished for one in expected]
    assert len(decode_graph._IDLE[model]) == (len(first) > 3)


@both
def test_fewer_kernels_give_the_same_logits(name, monkeypatch):
    model, inputs = ours(CONFIGS[name]), prompts(6)
    logits = []
    for fuse in (False, True):
        monkeypatch.setattr(gemma, "can_fuse", lambda x, fuse=fuse: fuse)
        static = StaticStep(model.config.text_config, 1, 64, CPU, torch.float32)
        first = prefilled(model, inputs, static.cache)
        logits.append(torch.cat([first, static(model, torch.tensor([[5]]))]))
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert not torch.equal(*logits)  # rounded elsewhere: both ran


@both
def test_a_whole_prefix_needs_no_mask(name):
    model, inputs = ours(CONFIGS[name]), prompts(6)
    table, ids = model.language_model, inputs["input_ids"]
    positions, whole = torch.arange(ids.shape[1])[None] + 1, torch.ones_like(ids)
    with torch.inference_mode():
        x = model.embed_tokens(ids.clamp(max=90))
        mask = prefix_lm_mask(whole, torch.zeros_like(ids), model.config.text_config.sliding_window)
        assert mask.all()
        torch.testing.assert_close(table(x, positions, None), table(x, positions, mask))


@both
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("lengths", [(6,), (3, 9, 5)])
def test_a_gpu_replays_what_it_would_compute(name, lengths):
    model = ours(CONFIGS[name]).to("cuda")
    inputs = {key: value.to("cuda") for key, value in prompts(*lengths).items()}
    token = decode_graph.CAPTURE.set(False)
    try:
        expected = answer(model, inputs, max_new_tokens=30)
    finally:
        decode_graph.CAPTURE.reset(token)
    assert not decode_graph.captured_graphs(model)
    for _ in range(2):
        assert [one.ids for one in answer(model, inputs, max_new_tokens=30)] == [
            one.ids for one in expected
        ]
        assert decode_graph.captured_graphs(model) == 1
