"""Which requests the app answers: by host, by origin, by route and by the size of the body.

A page of another site can make a visitor's browser send requests to an app on their own machine,
and, under a name that it rebinds to 127.0.0.1, read the answers. Such requests are refused here,
before any route of gradio or MCP. Compare CVE-2024-1727 (cross-site uploads), CVE-2025-66416 (DNS
rebinding of MCP servers) and https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site.
"""

import errno
import ipaddress
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from gradio.route_utils import API_PREFIX
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Any port: tunnels forward other ones than the app listens on.
LOCAL_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
UPLOAD = f"{API_PREFIX}/upload"
# MCP clients send pictures in base64. The limit is that of the MCP SDK.
WITH_PICTURES = f"{API_PREFIX}/mcp"
MAX_JSON_BYTES = 2 * 2**20  # no function of the page or the API needs more
MAX_UPLOAD_BYTES = 320 * 2**20  # of one request: the Batch tab takes 300 MB
MAX_PICTURE_BYTES = 4 * 2**20
# Routes of gradio 6.31 that the app has no use for.
CLOSED = (
    *(
        "/monitoring",
        f"{API_PREFIX}/component_server",
        f"{API_PREFIX}/deep_link",
        f"{API_PREFIX}/dev",
        f"{API_PREFIX}/proxy=",
    ),
    *(f"{API_PREFIX}/vibe-", f"{API_PREFIX}/undo-vibe-", f"{API_PREFIX}/process_recording"),
)
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


@dataclass(frozen=True)
class NetworkPolicy:
    """Who may send requests.

    `checks_host`: Host must be a name of this machine or one of `allow_hosts`, names with or
    without a port. `is_private`: only the person at this machine can reach the app, so that it may
    load whatever they name.
    """

    checks_host: bool = False
    is_private: bool = False
    allow_hosts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        host: str,
        is_shared: bool = False,
        root_path: str = "",
        allow_hosts: Sequence[str] = (),
    ) -> "NetworkPolicy":
        """The policy of an app that listens on `host`.

        `is_shared`: it has a public link, or is a Space. An app with `root_path` or `allow_hosts`
        is behind a proxy, so whoever reaches it may be a stranger, whatever their address.

        Raises ValueError if one of `allow_hosts` is not a name, with or without a port.
        """
        names = tuple(host_name(name) for name in allow_hosts)
        is_local = is_loopback(host) and not is_shared
        return cls(is_local, is_local and not root_path and not names, names)

    def refusal(self, method: str, path: str, headers: Headers) -> str:
        """Why a request is refused, as a sentence; empty if it is not."""
        if self.checks_host and (name := self._foreign_host(headers)) is not None:
            return (
                f"This app answers on this machine only, not as {name!r}: "
                "start it with --allow-host NAME to serve it under another name."
            )
        if self.is_private and any(name in headers for name in PROXY_HEADERS):
            return (
                "This app is private, and a proxy sent this request: start it with "
                "--allow-host NAME, the name that visitors use."
            )
        is_read = method in ("GET", "HEAD", "OPTIONS") and (
            not path.startswith(f"{API_PREFIX}/") or path.startswith(f"{API_PREFIX}/file=")
        )
        if not is_read and self._is_cross_site(headers):
            return (
                "Requests from pages of other sites are refused: start the app with "
                "--allow-host NAME to let the pages of that host use it."
            )
        return ""

    def _foreign_host(self, headers: Headers) -> str | None:
        """A Host that is not allowed, "" for none at all; None if all is well."""
        hosts = headers.getlist("host") or [""]
        foreign = (each for each in hosts if not (LOCAL_HOST.fullmatch(each) or self._allows(each)))
        return next(foreign, None)

    def _is_cross_site(self, headers: Headers) -> bool:
        site, origins = headers.get("sec-fetch-site"), headers.getlist("origin")
        names = [urlsplit(origin).netloc.lower() for origin in origins]
        if names and all(self._allows(name) for name in names):
            return False
        if site not in (None, "none", "same-origin"):
            return True
        if site and not self.checks_host:
            return False  # a proxy may have changed Host
        hosts = [headers.get("host", ""), *headers.getlist("x-forwarded-host")]
        own = {_unify_local_names(host) for host in hosts if host}
        return not all(name and _unify_local_names(name) in own for name in names)

    def _allows(self, host: str) -> bool:
        host = host.lower()
        return host in self.allow_hosts or host.rpartition(":")[0] in self.allow_hosts


class RequestFilter:
    """ASGI middleware: refuses what `policy` refuses, closed routes, and too large bodies.

    It hands all other messages on as they are, so that streams stay streams.
    """

    def __init__(self, app: ASGIApp, policy: NetworkPolicy) -> None:
        self.app, self.policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, path = Headers(scope=scope), scope["path"]
        if sentence := self.policy.refusal(scope["method"], path, headers):
            return await _respond(403, sentence, scope, receive, send)
        if path.startswith(CLOSED):
            return await _respond(404, "Not Found", scope, receive, send)
        limit = max_body_bytes(path)
        body = LimitedBody(limit, receive, send)
        if int(headers.get("content-length") or 0) > limit:
            return await body.refuse(scope)
        with suppress(ClientDisconnect):  # there is nobody to answer, and nothing to log
            await self.app(scope, body.receive, body.send)
        if body.is_too_large and not body.has_response:
            await body.refuse(scope)


class LimitedBody:
    """`receive` and `send` of a request whose body ends, for the app, where it gets too large.

    The app then gets a disconnected client, and what it sends afterwards is dropped.
    """

    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self.limit, self._receive, self._send = limit, receive, send
        self._count = 0
        self.has_response = False

    @property
    def is_too_large(self) -> bool:
        return self._count > self.limit

    async def receive(self) -> Message:
        message = await self._receive()
        self._count += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.is_too_large else message

    async def send(self, message: Message) -> None:
        if not self.is_too_large or self.has_response:
            self.has_response = True
            await self._send(message)

    async def refuse(self, scope: Scope) -> None:
        sentence = (
            f"The body of this request is larger than {self.limit >> 20} MB: "
            f"send pictures as files to {UPLOAD}."
        )
        await _respond(413, sentence, scope, self._receive, self._send)


async def _respond(status: int, sentence: str, scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"detail": sentence}, status)(scope, receive, send)


def max_body_bytes(path: str) -> int:
    """The largest body that a route takes; gradio caps each file of an upload besides."""
    if path == UPLOAD:
        return MAX_UPLOAD_BYTES
    return MAX_PICTURE_BYTES if path.startswith(WITH_PICTURES) else MAX_JSON_BYTES


def host_name(text: str) -> str:
    """A name of `--allow-host`, in lower case; raises ValueError if it is none."""
    name = text.strip().lower()
    try:
        parts = urlsplit(f"//{name}")
        is_name = bool(parts.hostname) and parts.netloc == name and parts.port != 0
    except ValueError:
        is_name = False
    if not is_name or any(character in name for character in "@* \\"):
        raise ValueError(f"--allow-host takes a name such as app.example.com, not {text!r}.")
    return name


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _unify_local_names(host: str) -> str:
    """A host in lower case, where this machine has one name."""
    is_local = LOCAL_HOST.fullmatch(host)
    return f"localhost{is_local[1] or ''}" if is_local else host.lower()


def read_port(text: str) -> int:
    """A port; raises ValueError if it is none."""
    if not (text.isdecimal() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"A port is a number from 1 to 65535, not {text!r}.")
    return int(text)


def check_port(host: str, port: int) -> None:
    """Raises ValueError if no server can listen there."""
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM
        )
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"Port {port} is in use: choose another with --port.") from error
        raise ValueError(f"Port {port} of {host!r} cannot be opened: {error.strerror}.") from error
