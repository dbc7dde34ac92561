"""Images by address: a data URL, or http(s) from hosts of the public internet.

    read_address("https://example.com/cat.jpg")  # the bytes of the file

Private, local and reserved addresses are refused where the connection is made, and so after every
redirect and whatever a name resolves to at that moment (compare OWASP's cheat sheet on server-side
request forgery).
"""

import base64
import binascii
import ipaddress
import socket
from time import monotonic
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

MAX_BYTES = 50 * 2**20
MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 20  # for each step of the connection
DEADLINE_SECONDS = 60  # for all of it
SCHEMES = ("http", "https")
REDIRECTS = (301, 302, 303, 307, 308)


def is_address(source: Any) -> bool:
    """Whether `source` is a text that `read_address` takes."""
    return isinstance(source, str) and source.lower().startswith(("data:", "http://", "https://"))


def read_address(address: str) -> bytes:
    """The bytes behind a data URL or an http(s) address.

    Raises ValueError, in one sentence, for an address that cannot be read, is not of the public
    internet, or has more than MAX_BYTES.
    """
    if address[:5].lower() == "data:":
        return read_data_url(address)
    deadline = monotonic() + DEADLINE_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(address)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ValueError(f"An address begins with http:// or https://, not {address[:60]!r}.")
        found = _get(address, parts.hostname, deadline)
        if isinstance(found, bytes):
            return found
        address = urljoin(address, found)
    raise ValueError(f"{parts.hostname} redirects more than {MAX_REDIRECTS} times.")


def read_data_url(url: str) -> bytes:
    """The bytes in a data URL (RFC 2397); raises ValueError if it is damaged or too large."""
    header, comma, content = url.partition(",")
    if not comma:
        raise ValueError("This data URL has no comma before its data.")
    if len(content) > 2 * MAX_BYTES:
        raise ValueError(f"A data URL has at most {MAX_BYTES >> 20} MB.")
    data = unquote_to_bytes(content)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError("The base64 of this data URL is damaged.") from error


def is_public(address: str) -> bool:
    """Whether a numeric network address belongs to the public internet."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        is_translated = found in ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
        if is_translated:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return found.is_global and not found.is_multicast


def public_address(host: str, port: int) -> str:
    """The numeric address to connect to; raises ValueError if `host` has one that is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"There is no host {host!r}.") from error
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(map(is_public, addresses)):
        raise ValueError(f"{host} is not a host of the public internet.")
    return addresses[0]


def _get(address: str, host: str, deadline: float) -> bytes | str:
    """The body, or the address that it redirects to."""
    import httpcore

    class PublicBackend(httpcore.SyncBackend):
        def connect_tcp(self, host: str, port: int, *args, **options):
            return super().connect_tcp(public_address(host, port), port, *args, **options)

    timeout = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
    request = {"headers": {"User-Agent": "paligemma"}, "extensions": {"timeout": timeout}}
    try:
        with (
            httpcore.ConnectionPool(network_backend=PublicBackend()) as pool,
            pool.stream("GET", address, **request) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in headers:
                return headers[b"location"].decode("latin-1")
            if response.status != 200:
                raise ValueError(f"{host} answers with status {response.status}.")
            body = bytearray()
            for part in response.iter_stream():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError(
                        f"A picture has at most {MAX_BYTES >> 20} MB: {host} sends more."
                    )
                if monotonic() > deadline:
                    raise ValueError(f"{host} takes longer than {DEADLINE_SECONDS} seconds.")
            return bytes(body)
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise ValueError(f"{host} cannot be read: {error or type(error).__name__}.") from error
    except (httpcore.UnsupportedProtocol, UnicodeError) as error:
        raise ValueError(f"This is no address: {address[:60]!r}.") from error
