"""Images at remote addresses: the only code that opens one.

Off unless the operator turns it on. A name is resolved here, every address it has is checked, and the
connection goes to a checked address, not to the name: what the name says a moment later (DNS rebinding) does
not matter. The certificate is still checked against the name, and every redirect as the first address was.
Nothing of the environment goes along: no proxy, no cookie, no credential. One deadline and one cap of bytes
hold for all of it.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from ipaddress import ip_address
from typing import Literal

import httpcore
import httpx

from model.errors import ImageTooLarge, InvalidImage
from service.addresses import Address, is_public, parse_address
from service.settings import Settings

Reason = Literal[
    "disabled", "url", "host", "port", "address", "redirect", "type", "size", "time", "unreachable"
]
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
SocketOptions = Iterable[httpcore.SOCKET_OPTION]

DEFAULT_PORTS: Mapping[str, int] = {"https": 443, "http": 80}
MAX_URL_CHARS = 2048
MAX_AT_ONCE = 16
MAX_LOOKUPS = 4
MAX_ADDRESSES = 4
CONNECT_SECONDS = 3.0
REDIRECTS = (301, 302, 303, 307, 308)
TYPES = re.compile(r"image/.*|application/octet-stream|binary/octet-stream|", re.IGNORECASE)
AUTHORITY = re.compile(r"[a-z]+://([^/?#]+)", re.IGNORECASE)
# Several labels, the last of which begins with a letter: nothing that a resolver takes for a number.
NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
NO_ADDRESS = "its host has no public address"


class FetchRefused(Exception):
    """A remote image that is not opened, or could not be.

    Attributes:
        reason: One of a few words, for the metrics.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Fetcher:
    """Fetches images for one app.

    Args:
        settings: Whether, from where, how much and how long.
        on_refused: Told the reason of every fetch that gave no file.
        is_allowed: The policy of addresses.
        resolve: From a name and a port to addresses; the system's resolver when left out.
        ssl_context: Whom to trust; the usual authorities when left out.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_refused: Callable[[Reason], None] = lambda reason: None,
        is_allowed: Callable[[Address], bool] = is_public,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._on_refused = on_refused
        self._is_allowed = is_allowed
        self._resolve = resolve or self.look_up
        self._lookups = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="lookup")
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        if ssl_context is None and settings.fetch_images:
            ssl_context = httpx.create_ssl_context(trust_env=False)
        self._ssl_context = ssl_context

    async def fetch(self, url: str, *, param: str) -> bytes:
        """Return the file at an address.

        Args:
            url: Where it is.
            param: The field that names it; an error is named after it.

        Raises:
            ImageTooLarge: The file has more bytes than are read.
            InvalidImage: It may not be fetched, or could not be; the words tell nothing of the network here.
        """
        reason: Reason
        try:
            async with asyncio.timeout(self._settings.max_fetch_seconds), self._places:
                return await self._follow(url)
        except FetchRefused as refusal:
            reason, message = refusal.reason, str(refusal)
        except TimeoutError:
            reason, message = "time", f"it took more than {self._settings.max_fetch_seconds:g} seconds"
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError):
            reason, message = "unreachable", "its host gave no proper answer"
        self._on_refused(reason)
        kind = ImageTooLarge if reason == "size" else InvalidImage
        raise kind(f"{param}: {message}", param=param)

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        """Return every address that the system's resolver knows of a name, none where it knows none."""
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._lookups, ask)
        except (OSError, UnicodeError):
            return ()
        return tuple(dict.fromkeys(ip_address(place[0]) for *_, place in found))

    async def close(self) -> None:
        """Let go of the threads; a look-up that is under way ends by itself."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, url: str) -> bytes:
        at = check_url(url, self._settings)
        for _ in range(self._settings.max_fetch_redirects + 1):
            async with self._opened(at) as response:
                if response.status not in REDIRECTS:
                    return await read_body(response, max_bytes=self._settings.max_image_bytes)
                at = check_redirect(at, header(response, b"location"), self._settings)
        raise FetchRefused("redirect", f"more than {self._settings.max_fetch_redirects} redirects")

    @asynccontextmanager
    async def _opened(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": f"hbridge/{version('hbridge')}",
            "Accept": "image/png, image/jpeg, image/webp, image/gif",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        network = CheckedNetwork(self._resolve, self._is_allowed)
        connection = httpcore.AsyncHTTPConnection(
            target.origin, ssl_context=self._ssl_context, network_backend=network
        )
        try:
            async with connection.stream("GET", target, headers=headers) as response:
                yield response
        finally:
            await connection.aclose()
            await network.aclose()


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else.

    Args:
        resolve: From a name and a port to addresses.
        is_allowed: The policy; one address of a name that it refuses refuses the name.
    """

    def __init__(self, resolve: Resolve, is_allowed: Callable[[Address], bool]) -> None:
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._network = httpcore.AnyIOBackend()
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers.

        Raises:
            FetchRefused: The host has no address, or one that is not allowed.
            httpcore.ConnectError: None answers.
        """
        literal = parse_address(host)
        addresses = await self._resolve(host, port) if literal is None else (literal,)
        if not addresses:
            raise FetchRefused("unreachable", NO_ADDRESS)
        if not all(map(self._is_allowed, addresses)):
            raise FetchRefused("address", NO_ADDRESS)
        for address in addresses[:MAX_ADDRESSES]:
            try:
                stream = await self._network.connect_tcp(
                    str(address), port, CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            self._streams.append(stream)
            return stream
        raise httpcore.ConnectError

    async def aclose(self) -> None:
        """Close what was opened, a connection whose handshake was cut off too."""
        for stream in self._streams:
            await stream.aclose()


def check_url(url: str, settings: Settings) -> httpx.URL:
    """Check all of an address that can be checked before a name is resolved.

    Raises:
        FetchRefused: It may not be opened; says why.
    """
    if not settings.fetch_images:
        raise FetchRefused("disabled", "this server opens no remote addresses; send a data: URL or base64")
    authority = AUTHORITY.match(url)
    if authority is None or len(url) > MAX_URL_CHARS or any(c <= " " or c in "\\\x7f" for c in url):
        raise FetchRefused("url", f"it is no address of at most {MAX_URL_CHARS} proper characters")
    if "@" in authority[1]:
        raise FetchRefused("url", "addresses with a user name or a password are not opened")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise FetchRefused("url", "it is no proper address") from None
    schemes = ("https", "http") if settings.fetch_http else ("https",)
    if parsed.scheme not in schemes:
        raise FetchRefused("url", f"only {' and '.join(schemes)} addresses are opened")
    if parsed.port is not None and parsed.port not in settings.fetch_ports:
        raise FetchRefused("port", "its port is not one that is opened; leave it out")
    host = parsed.raw_host.decode("ascii")
    if parse_address(host) is None and not NAME.fullmatch(host):
        raise FetchRefused("host", "its host is no full name; give one such as images.example.com")
    if settings.fetch_hosts and host not in map(str.lower, settings.fetch_hosts):
        raise FetchRefused("host", "its host is not one that this server opens")
    return parsed


def check_redirect(url: httpx.URL, location: str, settings: Settings) -> httpx.URL:
    """Return where a redirect leads, checked as a first address is.

    Raises:
        FetchRefused: It leads nowhere, to a place that may not be opened, or from https to http.
    """
    try:
        joined = str(url.join(location))
    except (httpx.InvalidURL, ValueError):
        raise FetchRefused("redirect", "it redirects to no proper address") from None
    target = check_url(joined, settings)
    if not location or (url.scheme, target.scheme) == ("https", "http"):
        raise FetchRefused("redirect", "it redirects nowhere, or from https to http")
    return target


async def read_body(response: httpcore.Response, *, max_bytes: int) -> bytes:
    """Read a file as it comes, and no further than allowed.

    Raises:
        FetchRefused: The answer is no success, no image, compressed, or too long.
    """
    if response.status != 200:
        raise FetchRefused("unreachable", f"its host answered {response.status}")
    if header(response, b"content-encoding").lower() not in ("", "identity"):
        raise FetchRefused("type", "its host sent it compressed")
    if not TYPES.fullmatch(header(response, b"content-type").partition(";")[0].strip()):
        raise FetchRefused("type", "its host says that it is no image")
    too_long = FetchRefused("size", f"it has more than {max_bytes} bytes")
    length = header(response, b"content-length")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def header(response: httpcore.Response, name: bytes) -> str:
    """Return a header's value, "" where there is none; several are joined."""
    return ", ".join(value.decode("latin-1") for key, value in response.headers if key.lower() == name)
