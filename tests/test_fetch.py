"""Images by address: data URLs, and http from public hosts only."""

import base64
import io
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from PIL import Image

from paligemma import fetch
from paligemma.images import open_image


def png(size=(5, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return file.getvalue()


@contextmanager
def served(answers):
    """A server on this machine: path -> (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "prefix", ["data:image/png;base64,", "DATA:;base64,", "data:base64;base64,"]
)
def test_data_urls(prefix):
    image = open_image(prefix + base64.b64encode(png()).decode())
    assert image.size == (5, 4)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,%%%", "is damaged"),
        ("data:image/png;base64,", r"is empty \(0 bytes\)"),
        ("data:,hello", "is not an image"),
    ],
)
def test_damaged_data_urls(url, message):
    with pytest.raises(ValueError, match=message):
        open_image(url)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
        *("224.0.0.1", "255.255.255.255"),
    ],
)
def test_addresses_that_are_not_public(host):
    assert not fetch.is_public(host)


def test_public_addresses():
    assert all(map(fetch.is_public, ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]"])
def test_this_machine_is_refused_under_every_name(host):
    with pytest.raises(ValueError, match=r"not a host of the public internet|There is no host"):
        open_image(f"http://{host}:1/a.png")


def test_a_name_with_a_private_address_is_refused(monkeypatch):
    found = [(2, 1, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ValueError, match="not a host of the public internet"):
        open_image("https://example.com/a.png")


def test_an_image_is_fetched_and_redirects_are_checked_again(monkeypatch):
    answers = {
        "/image": (200, {}, png()),
        "/there": (302, {"Location": "/image"}, b""),
        "/round": (302, {"Location": "/round"}, b""),
        "/file": (302, {"Location": "file:///etc/passwd"}, b""),
        "/private": (302, {"Location": "http://10.0.0.1/"}, b""),
        "/missing": (404, {}, b""),
        "/large": (200, {}, bytes(1001)),
    }
    real = fetch.is_public
    with served(answers) as url:
        monkeypatch.setattr(fetch, "is_public", lambda a: a in ("127.0.0.1", "::1") or real(a))
        monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
        assert open_image(f"{url}/image").size == open_image(f"{url}/there").size == (5, 4)
        for path, message in (
            ("/round", "redirects more than 5 times"),
            ("/file", "begins with http"),
            ("/private", "10.0.0.1 is not a host of the public internet"),
            ("/missing", "answers with status 404"),
            ("/large", "sends more"),
        ):
            with pytest.raises(ValueError, match=message):
                open_image(url + path)
    with pytest.raises(ValueError, match="cannot be read"):
        open_image(f"{url}/image")
