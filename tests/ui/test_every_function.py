"""Every function of the page, called by its index as a program can call it, with hostile values.

A visitor's program needs no component: it posts any JSON to any function. No call may open a file
or an address that is none of the page's, or end in anything but an answer or a plain sentence.
"""

import json
import math
import mimetypes
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.block_function import BlockFunction
from gradio.components import Component
from PIL import Image
from scripted import Scripted
from starlette.middleware import Middleware

from paligemma import fetch
from paligemma.checkpoints import hub
from paligemma.generation import SamplingOptions
from paligemma.pipeline import PaliGemma
from paligemma.reply import Reply
from paligemma.ui import app, model_manager, model_picker, queue
from paligemma.ui.errors import UNEXPECTED
from paligemma.ui.layout import EXAMPLES, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.network import NetworkPolicy, RequestFilter
from paligemma.ui.queue import Limits
from paligemma.ui.theme import LAUNCH_OPTIONS

ROOT = Path(app.__file__).parents[2]
BATCH = 30  # calls at once
SOME = 6  # values for each input; with --all-values, all that there are
CONTINUE = "_continue"
SECRET = "the canary sings at midnight"
OBJECT = ["<loc0000>", "<loc0512>", "<loc1023>", "<loc1023>"]
ANSWERS = {
    "caption en": ["a", " red", " cat"],
    "answer en cat": ["yes", " it", " is"],
    "detect cat": [*OBJECT, " cat"],
    "segment cat": [*OBJECT, *(f"<seg{n:03d}>" for n in range(16)), " cat"],
}
TEXTS = {
    "Box: left, top, right, bottom, in per cent": "10, 20, 60, 80",
    "Raw prompt": "detect cat",
    "Raw prompt for each picture": "detect cat",
}
NUMBERS = {"max_new_tokens": 8, "x1": 0.1, "y1": 0.2, "x2": 0.6, "y2": 0.8}
WORDS = {"language": "en", "style": "caption"}
CLICK = {"index": [20, 30], "value": None}
# What a raw exception says, and no sentence of ours.
RAW = re.compile(
    r"Traceback|Error\b|Exception|object has no|out of range|NoneType|Errno|<class|__\w+__\(|\.py\b"
    r"|not supported between|unhashable|subscriptable|not iterable|codec can't|surrogates"
    r"|validation error|pydantic|null byte|null character|must be real|could not convert"
    r"|invalid literal|unexpected keyword|missing \d|positional argument|0x[0-9a-f]{6}|array\("
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


class Answers(dict[str, list[str]]):
    """Those of the script, and one for any other prompt."""

    def get(self, prompt, default=()):
        return super().get(prompt, ["a", " cat"])


class Model(Scripted):
    """Has the parts of the built-in model that the app shows, and its checkpoint."""

    def __init__(self, loaded: PaliGemma) -> None:
        super().__init__(Answers(ANSWERS))
        self.config, self.processor = loaded.config, loaded.processor
        self.checkpoint = loaded.checkpoint

    def stream(self, image, prompt: str, options: SamplingOptions, answer=()) -> Iterator[Reply]:
        self.processor.encode_prompt(prompt)  # raises ValueError for what is no prompt
        yield from super().stream(image, prompt, options, answer)

    def similarity(self, image, word: str) -> np.ndarray:
        return np.full((8, 8), 0.5, np.float32)


class Call(NamedTuple):
    """One call of a function: its index, name, values, and what was clicked."""

    index: int
    name: str
    data: list
    event_data: Any = CLICK


class Monitor:
    """Counts what the process opens and connects to, by Python's own audit events."""

    def __init__(self) -> None:
        self.allowed: list[str] = []  # folders
        self.hostile: set[str] = set()  # files in them that are none of the page's
        self.opened: list[str] = []
        self.requested: list[str] = []
        self.is_on = self.may_resolve = False
        sys.addaudithook(self._note)

    def watch(self, outside: Path) -> None:
        self.hostile = {*map(str, outside.iterdir()), str(ROOT / "README.md")}
        self.opened, self.requested = [], []

    def _note(self, event: str, args: tuple) -> None:
        if not self.is_on:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            path = args[0] if isinstance(args[0], str) else args[0].decode("utf-8", "replace")
            if path in self.hostile or not path.startswith(tuple(self.allowed)):
                self.opened.append(path)
        elif event == "socket.connect" and isinstance(args[1], tuple):
            self.requested.extend([] if args[1][0] in ("127.0.0.1", "::1") else [str(args[1])])
        elif event == "socket.getaddrinfo":
            host = str(args[0])
            self.requested.extend([] if host in ("127.0.0.1", "localhost") else [host])


MONITOR = Monitor()


def resolve(host: str, port: int, **_) -> list[tuple]:
    """Of `fetch`: every name is that of a private address, so that nothing is connected to."""
    MONITOR.requested += [] if MONITOR.may_resolve else [host]
    return [(0, 0, 0, "", ("169.254.169.254", port))]


@pytest.fixture(scope="module")
def loaded():
    return PaliGemma.load()


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder beside that of the uploads, with files that nobody was to read."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "canary.txt").write_text(SECRET)
    (folder / "config.json").write_text(json.dumps({"model_type": SECRET}))
    Image.new("RGB", (30, 20), "yellow").save(folder / "canary.png")
    return folder


@pytest.fixture(params=["private", "public"])
def page(request, loaded, outside, monkeypatch):
    """The running app, with a model that answers at once, and a visitor's client."""
    is_private = request.param == "private"
    uploads = outside.parent / "uploads"
    uploads.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    monkeypatch.setattr(tempfile, "tempdir", str(uploads))
    model = Model(loaded)
    loader = SimpleNamespace(from_checkpoint=lambda *_: model)
    monkeypatch.setattr(model_manager, "PaliGemma", loader)
    monkeypatch.setattr(fetch, "socket", SimpleNamespace(getaddrinfo=resolve, SOCK_STREAM=1))
    monkeypatch.setattr(queue, "UNREAD_SECONDS", 600)  # it sends many requests, then reads
    monkeypatch.setattr(model_picker, "PHOTOGRAPH_MODEL", "built-in")  # there is no hub here
    models = ModelManager(model, any_model=is_private)
    demo = build_app(models, limits=Limits(max_seconds=30, per_session=queue.MAX_WAITING))
    policy = NetworkPolicy.of("127.0.0.1" if is_private else "0.0.0.0", not is_private, "", [])
    _, url, _ = demo.launch(
        prevent_thread_lock=True,
        quiet=True,
        app_kwargs={"middleware": [Middleware(RequestFilter, policy=policy)]},
        **LAUNCH_OPTIONS,
    )
    mimetypes.init()  # reads files of the system
    MONITOR.allowed = [str(uploads), str(EXAMPLES), str(ROOT), sys.prefix, sys.base_prefix]
    MONITOR.allowed += ["/proc/meminfo", "/sys/fs/cgroup/"]  # whether a model fits
    with httpx.Client(base_url=url, timeout=60) as client:
        yield SimpleNamespace(demo=demo, http=client, is_private=is_private, name=request.param)
    MONITOR.is_on = False
    demo.close()


def hostile_values(outside: Path) -> list:
    """Values of every type that JSON has, and paths, addresses and markup in them."""
    passwd, canary = "/etc/passwd", str(outside / "canary.png")
    meta = {"_type": "gradio.FileData"}
    address, internal = "http://canary.invalid/a.png", "http://169.254.169.254/latest/meta-data"
    relative = "../../outside/canary.png"
    deep: Any = "deep"
    for _ in range(30):
        deep = [deep, {"path": deep}] if isinstance(deep, str) else [deep]
    paths = [passwd, canary, relative, str(outside), str(ROOT / "README.md"), f"{canary}\0.png"]
    paths += ["/dev/zero", "/proc/self/environ", "C:\\Windows\\win.ini", "a" * 5_000]
    paths += [address, internal, f"file://{canary}", f"file://{passwd}", "ftp://canary.invalid/a"]
    files = [{"path": path, "meta": meta} for path in paths] + [{"path": p} for p in paths[:4]]
    files += [
        {"path": relative, "url": address, "meta": meta},
        {"path": passwd, "url": internal, "orig_name": "../../x", "size": -1, "meta": meta},
        {"path": None, "url": address, "meta": meta},
        {"path": {"path": passwd}, "meta": meta},
        {"path": [passwd], "meta": meta},
        {"path": 5},
        {"path": passwd, "meta": meta, "is_stream": True},
        {"url": canary, "meta": meta},
        {"meta": meta},
        {"path": "\ud800", "meta": meta},
        [{"path": passwd, "meta": meta}, {"path": address, "meta": meta}],
        {"background": {"path": canary, "meta": meta}, "layers": [], "composite": None},
        {"background": None, "layers": [], "composite": {"path": address, "meta": meta}},
        {"background": 5, "layers": "x", "composite": [1]},
        {"value": {"path": passwd, "meta": meta}},
    ]
    texts = [*paths, "data:image/png;base64,AAAA", "data:text/html,<script>1</script>", "", " "]
    texts += ["<img src=http://canary.invalid/x onerror=alert(1)>", "../", "%2e%2e%2fetc%2fpasswd"]
    texts += ["![x](http://canary.invalid/x.png)", "a\0b", "\ud800", "x" * 200_000, "9" * 5_000]
    texts += ["owner/private-model", "owner/model@../..", "{0.__class__}", "${HOME}", "<loc0000>"]
    numbers = [0, 1, -1, 5, 10**9, -(10**9), 2**63, -(2**63), 10**30, 10**400, 0.5, -0.5, 1e30]
    numbers += [-1e300, 1e-320, math.nan, math.inf, -math.inf, True, False]
    others = [None, [], {}, [None], [1, 2, 3], [[[]]], ["a", 1, None], {"a": 1}, {"": {"": []}}]
    others += [deep, {"__type__": "update", "value": passwd}, {"index": [0, 0]}, [math.nan, 1e30]]
    return [*texts, *files, *numbers, *others]


def clicks(values: list) -> list:
    """What a program may say was clicked."""
    pairs = [[x, 5] for x in (-5, -1e9, 1e30, math.nan, math.inf, None, "a", [], True, 10**400)]
    indices = [*pairs, [], [1], [1, 2, 3], None, "ab", 5, {}, {"0": 1, "1": 2}]
    files = [{"file": value} for value in values if isinstance(value, str)]
    return [*({"index": index, "value": None} for index in indices), *files, {"index": [1, 1]}, {}]


def upload(page) -> dict:
    file = next(EXAMPLES.glob("*.png"))
    [path] = page.http.post("/gradio_api/upload", files={"files": file.read_bytes()}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def valid_value(part: Component, name: str, image: dict) -> Any:
    """A value that the function answers; `name`: of the function's parameter, where it has one."""
    match part:
        case gr.State():
            return None  # the server's own, whatever is sent
        case gr.Image():
            return image
        case gr.File():
            return [image]
        case gr.HTML():
            return {"path": image["path"], "is_known": False}  # a drawing
        case gr.Textbox():
            return TEXTS.get(str(part.label), "cat")
        case gr.Markdown():
            return "Done."
        case gr.Slider() | gr.Number() | gr.Radio() | gr.Dropdown() | gr.Checkbox():
            return part.value
    named = {"image": image, "prompt": "detect cat"} | NUMBERS | WORDS
    return named.get(name, "cat")


def valid_call(function: BlockFunction, image: dict) -> Call:
    names = [""] * len(function.inputs)
    if function.api_visibility == "public":
        assert function.fn
        names = list(signature(function.fn).parameters)
    data = [
        valid_value(part, name, image) for part, name in zip(function.inputs, names, strict=True)
    ]
    return Call(function._id, str(function.api_name or function.name), data)


def hostile_calls(valid: Call, values: list, count: int, chance: random.Random) -> Iterator[Call]:
    """`count` values for each input and click alone, and a few combinations."""
    pressed = clicks(values)
    yield valid._replace(data=[*valid.data, "more"], event_data=chance.choice(values))
    if not valid.data:
        return
    for place in range(len(valid.data)):
        for value in chance.sample(values, min(count, len(values))):
            data = list(valid.data)
            data[place] = value
            yield valid._replace(data=data)
    for click in chance.sample(pressed, min(count, len(pressed))):
        yield valid._replace(event_data=click)
    for _ in range(2):
        yield valid._replace(data=[chance.choice(values) for _ in valid.data])
    yield valid._replace(data=valid.data[:-1])


def answers(page, session: str, calls: list[Call]) -> list[tuple[Call, bool, dict]]:
    """What each call led to: whether it succeeded, and the whole output."""
    waiting, found = {}, []
    for call in calls:
        body = {
            "fn_index": call.index,
            "data": call.data,
            "event_data": call.event_data,
            "session_hash": session,
        }
        headers = {"content-type": "application/json"}
        sent = page.http.post("/gradio_api/queue/join", content=json.dumps(body), headers=headers)
        if sent.status_code == 200:
            waiting[sent.json()["event_id"]] = call
        else:
            assert sent.status_code in (400, 413, 422), (call, sent.status_code, sent.text)
            found.append((call, False, {"error": sent.json()["detail"]}))
    if not waiting:
        return found
    params = {"session_hash": session}
    with page.http.stream("GET", "/gradio_api/queue/data", params=params) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
            assert message["msg"] != "unexpected_error", (message, *map(short, waiting.values()))
            if message["msg"] == "process_generating":
                assert SECRET not in line
            if message["msg"] == "process_completed":
                call = waiting.pop(message["event_id"])
                found.append((call, message["success"], message["output"]))
    assert not waiting, f"no answer to {list(waiting.values())[:3]}"
    return found


def in_order(demo: gr.Blocks) -> list[BlockFunction]:
    """All functions; first those that read a State, while there are answers in them."""

    def rank(function: BlockFunction) -> tuple:
        return not any(isinstance(part, gr.State) for part in function.inputs), function._id

    return sorted(demo.fns.values(), key=rank)


def fill_states(page, image: dict) -> None:
    """Let every tab answer and every model be found, so that the session has their States."""
    for function in page.demo.fns.values():
        name = str(function.api_name)
        if name.startswith("tab_") and name.endswith(CONTINUE):
            continue
        if name.startswith("tab_") or names_a_model(function):
            [(call, succeeded, output)] = answers(page, "a", [valid_call(function, image)])
            assert succeeded, (call, output)


def cut_an_answer_off(page, function: BlockFunction, image: dict) -> None:
    """Let the tab of a function that continues answers give one of a single token."""
    name = str(function.api_name).removesuffix(CONTINUE)
    tab = next(each for each in page.demo.fns.values() if each.api_name == name)
    call = valid_call(tab, image)
    for place, part in enumerate(tab.inputs):
        if getattr(part, "label", "") == "Max new tokens":
            call.data[place] = 1
    [(call, succeeded, output)] = answers(page, "a", [call])
    assert succeeded, (call, output)


def names_a_model(function: BlockFunction) -> bool:
    sources = [part for part in function.inputs if getattr(part, "value", None) == "built-in"]
    return function.fn is not None and bool(sources)


def short(call: Call) -> str:
    return f"{call.index} {call.name} {str(call.data)[:300]} {str(call.event_data)[:100]}"


def faults_of(call: Call, succeeded: bool, output: dict, may_read: bool) -> Iterator[str]:
    """What is wrong with an answer; `may_read`: the visitor may name any folder."""
    text = json.dumps(output)
    if (SECRET in text and not may_read) or re.search(r"root:.?:0:0", text):
        yield f"shows a file: {short(call)}"
    if succeeded:
        return
    message = output.get("error")
    if not isinstance(message, str) or not message.strip():
        yield f"fails without a sentence: {short(call)}: {message!r}"
    elif message == UNEXPECTED or RAW.search(message) or len(message) > 1_000:
        yield f"is no sentence of ours: {short(call)}: {message[:300]!r}"


@pytest.mark.slow
def test_every_function_with_hostile_values(
    page, outside, monkeypatch, capfd, caplog, pytestconfig
):

    def refuse(name: str, *_) -> Path:
        raise ValueError(f"{name} is not on the hub.")

    monkeypatch.setattr(hub, "fetch_model", refuse)
    values, chance, image = hostile_values(outside), random.Random(0), upload(page)
    count = len(values) if pytestconfig.getoption("all_values") else SOME
    MONITOR.watch(outside)
    fill_states(page, image)
    faults, total = [], 0
    for function in in_order(page.demo):
        valid = valid_call(function, image)
        if str(function.api_name).endswith(CONTINUE):
            cut_an_answer_off(page, function, image)
        # the owner of a private app may load any model
        may_read = page.is_private and names_a_model(function)
        MONITOR.is_on = not may_read
        # the API of a private app reads addresses, through a guard
        MONITOR.may_resolve = page.is_private and function.api_visibility == "public"
        calls = [valid, *hostile_calls(valid, values, count if function.fn else 0, chance)]
        for start in range(0, len(calls), BATCH):
            for call, succeeded, output in answers(page, "a", calls[start : start + BATCH]):
                total += 1
                faults += faults_of(call, succeeded, output, may_read)
                if call is valid and function.fn and not succeeded:
                    faults.append(f"refuses valid values: {short(call)}: {output}")
    MONITOR.is_on = False
    written = "".join(capfd.readouterr())
    faults += [f"opened {path!r}" for path in sorted(set(MONITOR.opened))]
    faults += [f"asked for {address!r}" for address in sorted(set(MONITOR.requested))]
    faults += [f"printed {trace[-400:]}" for trace in written.split("Traceback")[1:]]
    faults += [f"logged {each.getMessage()[:200]}" for each in caplog.records if each.levelno > 30]
    with capfd.disabled():
        print(f"\n{page.name}: {total} calls of {len(page.demo.fns)} functions")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults[:30])
    caption = next(each for each in page.demo.fns.values() if each.api_name == "caption")
    [(_, succeeded, output)] = answers(page, "b", [valid_call(caption, image)])
    assert succeeded and output["data"][0]["text"] == "a red cat"
