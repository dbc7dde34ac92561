"""The queue under clients that take more than their share, that do not read, and that cancel."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from scripted import Scripted

from paligemma.generation import SamplingOptions
from paligemma.ui import health, queue
from paligemma.ui.health import health_route, watch
from paligemma.ui.layout import EXAMPLES, build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.model_run import ModelRun
from paligemma.ui.queue import (
    PRIVATE_LIMITS,
    Limits,
    RequestQueue,
    add_queue,
    client_address,
    name_in_log,
)
from paligemma.ui.theme import LAUNCH_OPTIONS

ANSWERS = {"short": ["a", " cat"], "long": ["x"] * 400}
LIMITS = Limits(max_seconds=3, per_session=8, per_address=12, log_requests=True)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas


class Panic(BaseException):
    """What a panic in native code raises."""


class Model(Scripted):
    """Counts the threads that use it at a time; some prompts fail."""

    def __init__(self):
        super().__init__(ANSWERS, pause=0.02)
        self.users, self.most_users = 0, 0

    def stream(self, image, prompt: str, options: SamplingOptions, answer=()):
        if prompt == "panic":
            raise Panic("a panic")
        self.users += 1
        self.most_users = max(self.most_users, self.users)
        try:
            yield from super().stream(image, prompt, options, answer)
        finally:
            self.users -= 1


@pytest.fixture(scope="module")
def app():
    """The model, its manager, the page and a client of the running app."""
    models = ModelManager(model := Model())
    demo = build_app(models, limits=LIMITS)
    routes = {"routes": [health_route(demo, models)]}
    _, url, _ = demo.launch(
        prevent_thread_lock=True, quiet=True, app_kwargs=routes, **LAUNCH_OPTIONS
    )
    with httpx.Client(base_url=url, timeout=30) as client:
        yield SimpleNamespace(model=model, models=models, demo=demo, http=client)
    demo.close()


@pytest.fixture(scope="module")
def image(app):
    file = next(EXAMPLES.glob("*.png"))
    [path] = app.http.post("/gradio_api/upload", files={"files": file.read_bytes()}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def impatient(monkeypatch):
    """A few seconds without a reader are enough to have gone."""
    monkeypatch.setattr(queue, "UNREAD_SECONDS", 3)
    monkeypatch.setattr(queue, "SWEEP_SECONDS", 0.1)


def index_of(app, name):
    return next(n for n, fn in app.demo.fns.items() if fn.api_name == name)


def join(app, fn_index, data, session, address="8.8.8.8"):
    body = {"fn_index": fn_index, "data": data, "session_hash": session}
    headers = {"X-Forwarded-For": address}
    return app.http.post("/gradio_api/queue/join", json=body, headers=headers)


def generate(app, image, prompt, session, address="8.8.8.8", length=400):
    return join(app, index_of(app, "generate"), [image, prompt, length], session, address)


def read_result(app, session):
    """The output of the session's first request that ends."""
    params = {"session_hash": session}
    with app.http.stream("GET", "/gradio_api/queue/data", params=params) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message["output"]
                assert message["msg"] != "unexpected_error", message


def ask_as_a_stranger(app, image, session):
    started = time.monotonic()
    assert generate(app, image, "short", session, "9.9.9.9").status_code == 200
    assert read_result(app, session)["data"][0]["text"] == "a cat"
    assert time.monotonic() - started < 15


def wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("count", [200, pytest.param(2100, marks=pytest.mark.slow)])
def test_silent_sessions(count, impatient, monkeypatch):
    """On a page of two functions, since each session costs gradio time for each component."""

    def slow() -> str:
        time.sleep(1)
        return "slow"

    def quick() -> str:
        return "quick"

    monkeypatch.setattr(queue, "MAX_SESSIONS", count // 2)
    with gr.Blocks() as demo:
        gr.api(slow, api_name="slow", concurrency_limit=1)
        gr.api(quick, api_name="quick", concurrency_limit=None)
    add_queue(demo, LIMITS)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    with httpx.Client(base_url=url, timeout=30) as client:
        page = SimpleNamespace(demo=demo, http=client)
        for n in range(6):
            assert join(page, index_of(page, "slow"), [], "a few long runs").status_code == 200, n
        for n in range(count):
            address = f"1.{n // 250}.{n % 250}.1"
            answer = join(page, index_of(page, "quick"), [], f"silent {n}", address)
            assert answer.status_code == 200
        assert join(page, index_of(page, "slow"), [], "a stranger").status_code == 200
        started = time.monotonic()
        read_result(page, "a stranger")
        assert time.monotonic() - started < 15
        sessions = demo._queue.pending_messages_per_session.keys()
        assert len(sessions) <= queue.MAX_SESSIONS
        assert demo._queue.pending_event_ids_session.keys() <= sessions
    demo.close()


def test_a_session_has_its_share_of_the_places(app, image, impatient):
    answers = [generate(app, image, "long", "greedy") for _ in range(20)]
    assert [answer.status_code for answer in answers] == [200] * 8 + [429] * 12
    assert answers[-1].json()["detail"].startswith("You have 8 requests here already")
    ask_as_a_stranger(app, image, "beside greed")


def test_an_address_has_its_share_of_the_places(app, image, impatient):
    address = "2001:db9::{}"
    answers = [
        generate(app, image, "long", f"of many {n}", address.format(n)) for n in range(1, 21)
    ]
    assert [answer.status_code for answer in answers] == [200] * 12 + [429] * 8
    assert "from your network address" in answers[-1].json()["detail"]
    ask_as_a_stranger(app, image, "beside many")


def test_a_run_that_nobody_reads_ends(app, image, impatient, monkeypatch):
    monkeypatch.setattr(queue, "UNREAD_SECONDS", 1)
    wait_until(lambda: not app.demo._queue.event_ids_to_events)
    before = len(app.model.log)
    assert generate(app, image, "long", "gone").status_code == 200
    wait_until(lambda: len(app.model.log) > before)
    prompt, count, end = app.model.log[-1]
    assert (prompt, end) == ("long", "closed") and count < 120, "a limit of 3 s allows 150"


def test_the_time_limit_cuts_an_answer_off(app, image):
    started = time.monotonic()
    assert generate(app, image, "long", "patient").status_code == 200
    answer = read_result(app, "patient")["data"][0]
    assert 0 < answer["num_tokens"] < 200 and answer["finish_reason"] == "time"
    assert time.monotonic() - started < 10
    with pytest.raises(ValueError, match="The time limit of a request, 0 s, is over"):
        ModelRun(0).generate(app.model, EXAMPLES / "castle.png", "short", SamplingOptions())


def test_a_cancelled_run_keeps_its_place_until_it_ends(app, image):
    wait_until(lambda: not app.demo._queue.event_ids_to_events)
    app.model.most_users = 0
    for n in range(5):
        event = generate(app, image, "long", f"cancels {n}").json()["event_id"]
        wait_until(lambda: app.model.users == 1)
        body = {"session_hash": f"cancels {n}", "fn_index": index_of(app, "generate")}
        assert app.http.post("/gradio_api/cancel", json=body | {"event_id": event}).is_success
    ask_as_a_stranger(app, image, "after cancels")
    assert app.model.most_users == 1


def test_an_iterator_may_be_dropped_by_a_cancel_meanwhile():
    """Gradio looks whether it is there, waits for the lock, and deletes it."""

    class Lock(asyncio.Lock):
        async def __aenter__(self):
            await super().__aenter__()
            server.iterators.clear()

    async def reset():
        with gr.Blocks() as demo:
            pass
        queue = RequestQueue(demo, PRIVATE_LIMITS)
        queue.server_app = server
        await queue.reset_iterators("event")

    server = SimpleNamespace(iterators={"event": iter(())}, lock=Lock())
    asyncio.run(reset())
    assert not server.iterators


def test_a_panic_is_answered(app, image):
    assert generate(app, image, "panic", "panics").status_code == 200
    assert read_result(app, "panics")["error"].startswith("Something went wrong")
    ask_as_a_stranger(app, image, "after a panic")


@pytest.mark.parametrize("length", [-1, 0, 513, 1e30, "128", True, None, [], {}, 100_000], ids=str)
def test_lengths_are_bounded(app, image, length):
    session = f"length {length}"
    assert generate(app, image, "short", session, length=length).status_code == 200
    error = read_result(app, session)["error"]
    assert "max_new_tokens is a whole number from 1 to 512, not" in error


def test_what_cannot_join(app):
    assert join(app, 10**6, [], "a").status_code == 404
    assert join(app, None, [], "a").status_code == 404
    assert join(app, 0, [], "a" * 101).status_code == 400


@pytest.mark.parametrize("path", ["run/generate", "api/generate", "run/predict"])
def test_the_queue_is_the_only_way_in(app, image, path):
    body = {"data": [image, "short", 10], "fn_index": index_of(app, "generate")}
    assert app.http.post(f"/gradio_api/{path}", json=body).status_code == 404


def test_while_another_model_is_loaded(app, image):
    model, app.models.current = app.models.current, None
    try:
        assert generate(app, image, "short", "early").status_code == 200
        assert read_result(app, "early")["error"].startswith("Another model is being loaded")
        assert app.http.get("/health").status_code == 503
    finally:
        app.models.current = model


def test_health(app):
    answer = app.http.get("/health")
    assert answer.status_code == 200
    expected = {"status": "ok", "model": "a scripted model", "queue": "running", "waiting": 0}
    assert answer.json() == expected
    app.demo._queue._last_sweep -= 100
    assert app.http.get("/health").json()["queue"] == "stopped"
    wait_until(lambda: app.http.get("/health").status_code == 200)


def test_the_watchdog_ends_the_process(monkeypatch, capsys):
    exits = []
    monkeypatch.setattr(health.os, "_exit", exits.append)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.01)
    demo = build_app(ModelManager(Model()))
    demo.is_running = True
    watching = threading.Thread(target=watch, args=(demo,), daemon=True)
    watching.start()
    time.sleep(0.2)
    assert watching.is_alive() and not exits
    demo._queue.close()
    watching.join(5)
    assert exits == [70]
    assert json.loads(capsys.readouterr().err)["event"] == "queue stopped"


def test_a_line_of_json_for_each_request(app, image, capsys):
    ask_as_a_stranger(app, image, "logged")
    lines = []

    def logged():
        lines.extend(capsys.readouterr().out.splitlines())
        return lines

    wait_until(logged)
    record = json.loads(lines[-1])
    assert record["request"] == "generate" and record["status"] == "success"
    assert record["tokens"] == 2 and record["ran_s"] > 0
    assert set(record) == {"time", "request", "status", "waited_s", "ran_s", "tokens"}


def test_names_in_the_log(app):
    names = {name_in_log(function) for function in app.demo.fns.values() if function.fn}
    assert {"generate", "tab_attention", "change_view", "switch_model"} < names
    assert not any(name.startswith("partial") for name in names)


@pytest.mark.parametrize(
    "peer, forwarded, address",
    [
        ("8.8.8.8", "", "8.8.8.8"),
        ("8.8.8.8", "1.1.1.1", "8.8.8.8"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "9.9.9.9, 1.1.1.1, 172.16.0.1", "1.1.1.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "not an address", "127.0.0.1"),
        ("::ffff:8.8.8.8", "", "8.8.8.8"),
        ("2606:4700:1:2:3:4:5:6", "", "2606:4700:1:2::/64"),
        ("testclient", "1.1.1.1", "testclient"),
    ],
)
def test_client_address(peer, forwarded, address):
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    request = SimpleNamespace(client=SimpleNamespace(host=peer), headers=headers)
    assert client_address(request) == address
