"""Who may send requests to a running app: hosts, origins, proxies, sizes of bodies, and ports."""

import asyncio
import http.client
import json
import socket
import subprocess
import sys
from base64 import b64encode
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio import networking
from gradio_client import Client, handle_file
from PIL import Image
from scripted import Scripted
from starlette.middleware import Middleware
from starlette.requests import Request

from paligemma.pipeline import PaliGemma
from paligemma.ui import app
from paligemma.ui.layout import build_app
from paligemma.ui.model_manager import ModelManager
from paligemma.ui.network import NetworkPolicy, RequestFilter, check_port, read_port
from paligemma.ui.theme import LAUNCH_OPTIONS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio's use of pandas
JOIN = {"data": [], "fn_index": 0, "session_hash": "abc"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-03-26",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
API = "/gradio_api"
# Every kind of request that does something, or that answers with what happened.
ACTIONS = {
    "upload": ("POST", f"{API}/upload", {"files": {"files": ("a.txt", b"a")}}),
    "join": ("POST", f"{API}/queue/join", {"json": JOIN}),
    "run": ("POST", f"{API}/run/predict", {"json": JOIN}),
    "api": ("POST", f"{API}/api/predict", {"json": JOIN}),
    "call": ("POST", f"{API}/call/ask", {"json": {"data": []}}),
    "call v2": ("POST", f"{API}/call/v2/ask", {"json": {}}),
    "result": ("GET", f"{API}/call/ask/abc", {}),
    "data": ("GET", f"{API}/queue/data?session_hash=abc", {}),
    "cancel": ("POST", f"{API}/cancel", {"json": JOIN | {"event_id": "a"}}),
    "reset": ("POST", f"{API}/reset", {"json": {"event_id": "a"}}),
    "heartbeat": ("GET", f"{API}/heartbeat/abc", {}),
    "component": ("POST", f"{API}/component_server", {"json": {}}),
    "mcp": ("POST", f"{API}/mcp/", {"json": INITIALIZE}),
    "mcp sse": ("GET", f"{API}/mcp/sse", {}),
    "login": ("POST", "/login", {"data": {"username": "a", "password": "b"}}),
}
PAGE = ("/", "/config", "/theme.css", f"{API}/info")


@contextmanager
def served(policy):
    demo = build_app(ModelManager(Scripted({"answer en what?": ["cat"]})))
    options = LAUNCH_OPTIONS | {
        "app_kwargs": {"middleware": [Middleware(RequestFilter, policy=policy)]}
    }
    launched = demo.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **options)
    try:
        yield launched[1].rstrip("/")
    finally:
        demo.close()


@pytest.fixture(scope="module")
def private():
    with served(NetworkPolicy.of("127.0.0.1")) as url:
        yield url


@pytest.fixture(scope="module")
def public():
    with served(NetworkPolicy.of("0.0.0.0")) as url:
        yield url


@pytest.fixture(scope="module")
def proxied():
    with served(NetworkPolicy.of("127.0.0.1", allow_hosts=["App.example.com"])) as url:
        yield url


def status(url, method, path, headers=(), **options):
    """The status of a response, its body unread (it may be a stream), and what refuses it says."""
    headers = {"accept": "application/json, text/event-stream", **dict(headers)}
    with httpx.stream(method, url + path, headers=headers, timeout=20, **options) as response:
        is_refused = response.status_code in (403, 404, 413)
        detail = json.loads(response.read())["detail"] if is_refused else ""
        return response.status_code, str(detail)


def act(url, name, headers=()):
    method, path, options = ACTIONS[name]
    return status(url, method, path, headers, **options)


def port(url):
    return url.rpartition(":")[2]


@pytest.mark.parametrize("name", ACTIONS)
def test_a_private_app_refuses_foreign_hosts_and_other_sites(private, name):
    own = {"host": f"localhost:{port(private)}"}
    foreign = (
        {"host": f"rebound.example.com:{port(private)}"},
        {"host": "127.0.0.1.example.com"},
        {"host": "localhost.example.com"},
        {"host": "example.com", "origin": "http://example.com", "sec-fetch-site": "same-origin"},
        own | {"origin": "https://example.com"},
        own | {"origin": "http://localhost:1"},
        own | {"origin": "null"},
        own | {"sec-fetch-site": "cross-site"},
        own | {"sec-fetch-site": "same-site"},
        own | {"origin": "https://example.com", "sec-fetch-site": "same-origin"},
        own | {"x-forwarded-for": "192.0.2.1"},
        own | {"forwarded": "for=192.0.2.1"},
    )
    for headers in foreign:
        code, detail = act(private, name, headers)
        assert code == 403 and "--allow-host NAME" in detail, headers


@pytest.mark.parametrize("name", ACTIONS)
def test_a_private_app_answers_programs_and_its_own_page(private, name):
    for host in "127.0.0.1", "localhost":
        host = f"{host}:{port(private)}"
        page = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        for headers in ({"host": host}, page):
            assert "--allow-host" not in act(private, name, headers)[1]


def test_a_private_page_is_not_read_under_a_foreign_name(private):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in PAGE:
        assert status(private, "GET", path, {"host": "rebound.example.com"})[0] == 403
        assert status(private, "GET", path)[0] == 200
    assert status(private, "GET", "/", link)[0] == 200, "a link on another site opens the page"
    assert status(private, "GET", f"{API}/info", link)[0] == 403


def test_two_hosts_in_one_request(private):
    connection = http.client.HTTPConnection("127.0.0.1", int(port(private)), timeout=20)
    connection.putrequest("GET", "/", skip_host=True)
    connection.putheader("Host", "localhost")
    connection.putheader("Host", "rebound.example.com")
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_public_app_refuses_other_sites_under_any_name(public, name):
    host = {"host": "app.example.com"}
    for headers in (
        {"origin": "https://example.com"},
        {"origin": "https://example.com", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "null"},
    ):
        code, detail = act(public, name, host | headers)
        assert code == 403 and "other sites" in detail
    for headers in (
        {},
        {"x-forwarded-for": "192.0.2.1"},
        {"origin": "https://app.example.com"},
        {"origin": "https://app.example.com", "sec-fetch-site": "same-origin"},
        {"origin": "https://a.b", "sec-fetch-site": "same-origin"},  # a proxy changed Host
        {"origin": "https://a.b", "x-forwarded-host": "a.b"},
    ):
        assert "--allow-host" not in act(public, name, host | headers)[1], headers


def test_a_proxy_of_an_allowed_host(proxied):
    for headers in (
        {"host": "app.example.com", "x-forwarded-for": "192.0.2.1"},
        {"host": "app.example.com:8443"},
        {"origin": "https://app.example.com"},  # a proxy that changes Host
        {"origin": "https://app.example.com", "sec-fetch-site": "cross-site"},
    ):
        for name in "join", "mcp":
            assert "--allow-host" not in act(proxied, name, headers)[1], headers
    for headers in {"host": "example.com"}, {"origin": "https://example.com"}:
        assert act(proxied, "join", headers)[0] == 403


def test_programs_work_as_before(private, tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((1000, 1000), 90).convert("RGB").save(path)
    assert path.stat().st_size > 2 * 2**20, "more than a body of JSON may have"
    client = Client(private, verbose=False)
    answer = client.predict(handle_file(path), "what?", api_name="/ask")
    assert answer["text"] == "cat"

    mcp = pytest.importorskip("mcp", reason="the mcp package is not installed")
    from mcp.client.streamable_http import streamablehttp_client

    async def visit():
        async with (
            streamablehttp_client(f"{private}{API}/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            [ask] = [t for t in (await session.list_tools()).tools if t.name.endswith("ask")]
            image = f"data:image/png;base64,{b64encode(path.read_bytes()).decode()}"
            return await session.call_tool(ask.name, {"image": image, "question": "what?"})

    answer = asyncio.run(visit())
    assert not answer.isError and "cat" in answer.content[0].text


@pytest.mark.parametrize("kind, sentence", [("join", "larger than 2 MB"), ("mcp", "4 MB")])
def test_a_large_body_is_refused_before_it_is_sent(private, kind, sentence):
    _, path, _ = ACTIONS[kind]
    connection = http.client.HTTPConnection("127.0.0.1", int(port(private)), timeout=20)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert sentence in json.loads(response.read())["detail"]


@pytest.mark.parametrize(
    "path", ["/queue/join", "/call/ask", "/call/v2/ask", "/run/ask", "/cancel", "/reset"]
)
def test_a_body_of_unknown_size_is_refused_where_it_gets_too_large(private, path):
    def chunks():
        yield b'{"data": ["'
        for _ in range(300):
            yield b"x" * 2**16

    headers = {"content-type": "application/json"}
    try:
        response = httpx.post(private + API + path, content=chunks(), headers=headers, timeout=20)
    except httpx.WriteError:  # the server has closed the connection already
        return
    assert response.status_code == 413 and "2 MB" in response.json()["detail"]


def test_a_client_that_goes_during_its_upload_is_no_error():
    async def upload(scope, receive, send):
        await Request(scope, receive).body()

    async def receive():
        return {"type": "http.disconnect"}

    sent = []
    scope = {"type": "http", "method": "POST", "path": f"{API}/upload", "headers": []}
    asyncio.run(RequestFilter(upload, NetworkPolicy())(scope, receive, sent.append))
    assert not sent


def test_routes_without_use_are_closed(private):
    for path in "/monitoring", "/monitoring/", "/monitoring/summary", "/monitoring/abc":
        assert status(private, "GET", path)[0] == 404
    for path in "deep_link", "dev/reload", "proxy=https://hf.space", "vibe-code/":
        assert status(private, "GET", f"{API}/{path}")[0] == 404


def test_rights_come_from_the_configuration():
    for host in "127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2":
        assert NetworkPolicy.of(host).is_private and NetworkPolicy.of(host).checks_host
        for options in (
            {"is_shared": True},
            {"root_path": "/app"},
            {"allow_hosts": ["app.example.com"]},
        ):
            assert not NetworkPolicy.of(host, **options).is_private
    for host in "0.0.0.0", "::", "192.168.1.2", "app.example.com":
        policy = NetworkPolicy.of(host)
        assert not policy.is_private and not policy.checks_host


@pytest.mark.parametrize("name", ["https://a.b", "a.b/c", "", "*", "*.a.b", "a b:", "u@a.b", "a:x"])
def test_a_name_that_is_no_host(name):
    with pytest.raises(ValueError, match="--allow-host takes a name such as"):
        NetworkPolicy.of("127.0.0.1", allow_hosts=[name])


@pytest.mark.parametrize("text", ["99999", "0", "-1", "abc", "", "7860.5", "1" * 10_000, "²"])
def test_a_port_that_is_none(text):
    with pytest.raises(ValueError, match="A port is a number from 1 to 65535"):
        read_port(text)


def test_a_port_that_cannot_be_opened():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^Port {number} is in use: choose another"):
            check_port("127.0.0.1", number)
    check_port("127.0.0.1", number)
    with pytest.raises(ValueError, match=r"^Port 7860 of '192.0.2.1' cannot be opened: "):
        check_port("192.0.2.1", 7860)


@pytest.mark.parametrize(
    "arguments, variables, sentence",
    [
        (["--port", "99999"], {}, "A port is a number from 1 to 65535, not '99999'."),
        ([], {"PALIGEMMA_ALLOW_HOSTS": "a.b,https://c"}, "--allow-host takes a name such as"),
    ],
)
def test_the_program_ends_with_a_sentence(monkeypatch, capsys, arguments, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        app.main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("port", ["taken", "abc"])
def test_a_port_of_a_process_that_cannot_be(port, monkeypatch):
    """Gradio reads the variable too, when it is imported."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        monkeypatch.setenv("GRADIO_SERVER_PORT", number)
        command = [sys.executable, "app.py"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    sentences = {
        "taken": f"Port {number} is in use: choose another with --port.",
        "abc": "A port is a number from 1 to 65535, not 'abc'.",
    }
    assert ended.stderr.splitlines()[-1] == f"app.py: {sentences[port]}"
    assert "Traceback" not in ended.stderr


def test_an_app_that_is_loaded_as_it_starts_goes_on(monkeypatch):
    """Gradio asks the new app for its page, once, and waits for three seconds."""
    monkeypatch.setattr(networking, "url_ok", lambda url: False)
    demo = build_app(ModelManager(Scripted({})))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    assert httpx.get(url).status_code == 200
    demo.close()


def test_the_program_serves_behind_the_filter(monkeypatch, tmp_path):
    seen = {}
    model = Scripted({})
    model.checkpoint = SimpleNamespace(source="folder")
    monkeypatch.setattr(PaliGemma, "load", lambda *given: model)
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: seen.update(options))
    monkeypatch.setattr(app, "check_port", lambda *given: None)
    monkeypatch.setattr(app, "use_own_folder", lambda: tmp_path)
    app.main(["--allow-host", "a.b", "--allow-host", "c.d:1"])
    middleware, _ = seen["app_kwargs"]["middleware"]
    assert middleware.cls is RequestFilter
    assert middleware.kwargs["policy"] == NetworkPolicy(True, False, ("a.b", "c.d:1"))
