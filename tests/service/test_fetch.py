import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, get_args

import httpx
import hypothesis
import pytest
import trustme
from fastapi import FastAPI
from hypothesis import strategies as st
from starlette.testclient import TestClient

from model.drawing import Drawing
from model.errors import ImageTooLarge, InvalidImage
from service.addresses import Address, is_public, parse_address
from service.fetch import MAX_AT_ONCE, NAME, Fetcher, FetchRefused, Reason, check_redirect, check_url
from service.metrics import Metrics
from service.schemas.drawing import EditRequest
from service.settings import Settings
from service.tasks import to_job
from service.tenant import LOCAL
from service.uploads import read_images
from tests.image_bytes import as_file, noise, png_with

HOME, ELSEWHERE = ip_address("127.0.0.1"), ip_address("127.0.0.2")
PICTURE = png_with()
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("images.example", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def response(*headers: str, body: bytes = PICTURE, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "\r\n"]).encode("latin-1") + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(f"Location: {location}", "Content-Length: 0", body=b"", status=status)


def drip(data: bytes, seconds: float = 0.05) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for byte in data:
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(seconds)

    return answer


def flood(start: bytes, data: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)

    return answer


class Site:
    """A real server at 127.0.0.1 that answers by path, over TLS unless it has no context."""

    def __init__(self, answers: dict[str, bytes | Answer]) -> None:
        self.answers = answers
        self.asked: list[bytes] = []
        self.num_open = self.most_open = 0

    @asynccontextmanager
    async def serve(
        self, context: ssl.SSLContext | None, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._answer, host, port, ssl=context)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self.answers[self.asked[-1].split()[1].decode()]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.num_open -= 1
            writer.close()


class Visit:
    """One fetch from a site of this test's own.

    Attributes:
        outcome: The file, or the refusal.
        reasons: What was counted.
        asked: The heads of the requests that reached the site.
        names: The names that were resolved.
    """

    def __init__(self, answers: bytes | Answer | dict[str, bytes | Answer]) -> None:
        self.site = Site(answers if isinstance(answers, dict) else {"/a.png": answers})
        self.reasons: list[Reason] = []
        self.names: list[str] = []
        self.outcome: bytes | InvalidImage

    @property
    def asked(self) -> list[bytes]:
        return self.site.asked

    async def _resolve(self, host: str, port: int) -> Sequence[Address]:
        self.names.append(host)
        return (HOME,)

    async def run(
        self, server: ssl.SSLContext | None, trust: ssl.SSLContext | None, url: str, **settings: Any
    ) -> None:
        given = {"fetch_images": True, "max_fetch_seconds": 5, "max_image_bytes": 100_000} | settings
        async with self.site.serve(server) as port:
            fetcher = Fetcher(
                Settings(**{"fetch_ports": [port], **given}),
                on_refused=self.reasons.append,
                is_allowed=lambda address: address == HOME,
                resolve=self._resolve,
                ssl_context=trust,
            )
            try:
                self.outcome = await fetcher.fetch(url.format(port=port), param="image")
            except InvalidImage as refusal:
                self.outcome = refusal
            finally:
                await fetcher.close()


@pytest.fixture
def visit(server_context: ssl.SSLContext, trust: ssl.SSLContext) -> Callable[..., Visit]:
    """Return a function that serves answers and fetches one of them."""

    def go(
        answers: bytes | Answer | dict[str, bytes | Answer],
        url: str = "https://images.example:{port}/a.png",
        *,
        server: ssl.SSLContext | None = server_context,
        trusted: ssl.SSLContext | None = trust,
        **settings: Any,
    ) -> Visit:
        visit = Visit(answers)
        asyncio.run(visit.run(server, trusted, url, **settings))
        return visit

    return go


HOSTILE_URLS: dict[str, tuple[str, Reason]] = {
    # No https address.
    "a file": ("file:///etc/passwd", "url"),
    "a file on a host": ("file://images.example/etc/passwd", "url"),
    "another protocol": ("gopher://images.example/_x", "url"),
    "another protocol with TLS": ("ftps://images.example/a.png", "url"),
    "a script": ("javascript://images.example/%0aalert(1)", "url"),
    "http": ("http://images.example/a.png", "url"),
    "no host": ("https:///a.png", "url"),
    "no authority": ("https:images.example/a.png", "url"),
    "a broken address": ("https://[::1", "url"),
    "a port that cannot be": ("https://images.example:99999/", "port"),
    "a port in words": ("https://images.example:https/", "url"),
    "a very long one": ("https://images.example/" + "a" * 2048, "url"),
    # Read one way by some and another way by others.
    "a name and a password": ("https://me:secret@images.example/", "url"),
    "a host as a name": ("https://images.example@127.0.0.1/", "url"),
    "an empty name": ("https://@images.example/", "url"),
    "a backslash": ("https://images.example\\@127.0.0.1/", "url"),
    "a backslash in the path": ("https://images.example/\\127.0.0.1", "url"),
    "a blank": ("https://images.example /a.png", "url"),
    "a tab": ("https://images.example/\ta.png", "url"),
    "a line feed": ("https://images.example/\nHost: localhost", "url"),
    "a header": ("https://images.example/ HTTP/1.1\r\nX: y", "url"),
    "a zero": ("https://images.example\0.png", "url"),
    "a host in percents": ("https://%31%32%37.0.0.1/", "host"),
    "a host in circles": ("https://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/", "url"),
    "a host with wide dots": ("https://127\u30020\u30020\u30021/", "address"),
    # Hosts that are no full names.
    "localhost": ("https://localhost/", "host"),
    "a name of the network here": ("https://metadata/", "host"),
    "a name that ends with a dot": ("https://images.example./", "host"),
    "a name with an empty label": ("https://images..example/", "host"),
    "a name with a long label": ("https://" + "a" * 64 + ".example/", "host"),
    "an address as one number": ("https://2130706433/", "host"),
    "an address in hex": ("https://0x7f000001/", "host"),
    "an address in hex parts": ("https://0x7f.0x0.0x0.0x1/", "host"),
    "an address in octal": ("https://0177.0.0.1/", "url"),
    "a short address": ("https://127.1/", "host"),
    "an address of too many parts": ("https://127.0.0.1.1/", "host"),
    # Ports.
    "the port of a shell": ("https://images.example:22/", "port"),
    "the port of a database": ("https://images.example:6379/", "port"),
    "http's port": ("https://images.example:80/", "port"),
    "port 0": ("https://images.example:0/", "port"),
    # Addresses.
    "loopback": ("https://127.0.0.1/", "address"),
    "other loopback": ("https://127.8.8.8/", "address"),
    "any address": ("https://0.0.0.0/", "address"),
    "private": ("https://10.0.0.1/", "address"),
    "a router": ("https://192.168.0.1/", "address"),
    "shared by carriers": ("https://100.64.0.1/", "address"),
    "clouds' metadata": ("https://169.254.169.254/latest/meta-data/", "address"),
    "Alibaba's metadata": ("https://100.100.100.200/", "address"),
    "Azure's metadata": ("https://168.63.129.16/", "address"),
    "broadcast": ("https://255.255.255.255/", "address"),
    "multicast": ("https://224.0.0.1/", "address"),
    "loopback of IPv6": ("https://[::1]/", "address"),
    "any address of IPv6": ("https://[::]/", "address"),
    "IPv4-mapped": ("https://[::ffff:127.0.0.1]/", "address"),
    "IPv4-mapped in hex": ("https://[::ffff:a9fe:a9fe]/", "address"),
    "IPv4-mapped and public": ("https://[::ffff:8.8.8.8]/", "address"),
    "IPv4-compatible": ("https://[::127.0.0.1]/", "address"),
    "NAT64": ("https://[64:ff9b::7f00:1]/", "address"),
    "local NAT64": ("https://[64:ff9b:1::a00:1]/", "address"),
    "6to4": ("https://[2002:7f00:1::]/", "address"),
    "Teredo": ("https://[2001:0:7f00:1::]/", "address"),
    "link-local of IPv6": ("https://[fe80::1]/", "address"),
    "a zone": ("https://[fe80::1%25lo]/", "address"),
    "unique local": ("https://[fd00:ec2::254]/", "address"),
    "site-local": ("https://[fec0::1]/", "address"),
    "multicast of IPv6": ("https://[ff02::1]/", "address"),
}


def refuse_names(fetch_settings: Settings, url: str) -> tuple[InvalidImage, list[Reason]]:
    """Fetch where nothing may be resolved, with the policy that holds in earnest."""
    reasons: list[Reason] = []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        raise AssertionError(f"{host} was resolved")

    async def run() -> None:
        fetcher = Fetcher(fetch_settings, on_refused=reasons.append, resolve=resolve)
        try:
            await fetcher.fetch(url, param="image")
        finally:
            await fetcher.close()

    with pytest.raises(InvalidImage) as refusal:
        asyncio.run(run())
    return refusal.value, reasons


@pytest.mark.parametrize("name", HOSTILE_URLS)
def test_a_hostile_address_is_refused_before_anything_is_resolved(name: str) -> None:
    url, reason = HOSTILE_URLS[name]
    refusal, reasons = refuse_names(Settings(fetch_images=True), url)
    assert reasons == [reason]
    assert refusal.param == "image"
    assert "secret" not in str(refusal)


PIECES = st.one_of(
    st.sampled_from(tuple("[]:@%?#\\/. \u3002\u00df\u202e")),
    st.sampled_from(("https", "http", "://", "//", "::1", "..", "127.0.0.1", "a.example", "xn--a", "443")),
)
URLS = st.one_of(
    st.text(max_size=30).map("https://".__add__),
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map("".join).map("https://".__add__),
)


@hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
@hypothesis.given(URLS, URLS)
def test_a_made_address_is_refused_or_leads_to_a_full_name_or_an_address(url: str, location: str) -> None:
    settings = Settings(fetch_images=True)
    for check in (
        lambda: check_url(url, settings),
        lambda: check_redirect(httpx.URL("https://images.example/a/b"), location, settings),
    ):
        try:
            found = check()
        except FetchRefused:
            continue
        host = found.raw_host.decode("ascii")
        assert found.scheme == "https"
        assert (found.port, found.userinfo) == (None, b"")
        assert parse_address(host) or NAME.fullmatch(host)


def test_nothing_is_fetched_unless_it_is_turned_on() -> None:
    refusal, reasons = refuse_names(Settings(), "https://images.example/a.png")
    assert reasons == ["disabled"]
    assert "data: URL or base64" in str(refusal)


def test_only_listed_hosts_are_opened_where_there_is_a_list() -> None:
    settings = Settings(fetch_images=True, fetch_hosts=["images.example"])
    for url in (
        "https://other.example/",
        "https://images.example.evil.example/",
        "https://a.images.example/",
    ):
        assert refuse_names(settings, url)[1] == ["host"]


NAMES: dict[str, str] = {
    "loopback": "127.0.0.1",
    "private": "10.1.2.3",
    "metadata": "169.254.169.254",
    "loopback of IPv6": "::1",
    "IPv4-mapped": "::ffff:8.8.8.8",
    "NAT64": "64:ff9b::8.8.8.8",
    "a public one and a private one": "93.184.216.34 192.168.0.1",
    "a private one after many public ones": "1.1.1.1 1.0.0.1 8.8.8.8 8.8.4.4 9.9.9.9 10.0.0.1",
    "IPv6 public and IPv4 loopback": "2606:4700::1111 127.0.0.1",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_which_one_address_is_forbidden_is_not_opened(name: str) -> None:
    reasons: list[Reason] = []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [ip_address(address) for address in NAMES[name].split()]

    async def run() -> None:
        fetcher = Fetcher(Settings(fetch_images=True), on_refused=reasons.append, resolve=resolve)
        try:
            await fetcher.fetch("https://images.example/a.png", param="image")
        finally:
            await fetcher.close()

    with pytest.raises(InvalidImage, match="no public address"):
        asyncio.run(run())
    assert reasons == ["address"]


def test_what_is_refused_here_cannot_be_told_from_what_there_is_not() -> None:
    """Otherwise a request could ask which names the network here has."""

    async def words(addresses: Sequence[Address]) -> str:
        async def resolve(host: str, port: int) -> Sequence[Address]:
            return addresses

        fetcher = Fetcher(Settings(fetch_images=True), resolve=resolve)
        with pytest.raises(InvalidImage) as refusal:
            await fetcher.fetch("https://db.corp.example/", param="image")
        await fetcher.close()
        return str(refusal.value)

    assert asyncio.run(words([ip_address("10.0.0.1")])) == asyncio.run(words([]))


def test_the_system_s_resolver_is_asked_off_the_event_loop() -> None:
    async def run() -> tuple[Sequence[Address], Sequence[Address]]:
        fetcher = Fetcher(Settings())
        try:
            return await fetcher.look_up("localhost", 443), await fetcher.look_up("a" * 70 + ".example", 443)
        finally:
            await fetcher.close()

    known, unknown = asyncio.run(run())
    assert known
    assert not any(map(is_public, known))
    assert unknown == ()


def test_a_picture_is_fetched_with_nothing_but_what_is_needed(
    visit: Callable[..., Visit], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    seen = visit(response("Content-Type: image/png", "Set-Cookie: a=b"))
    assert seen.outcome == PICTURE
    assert seen.reasons == []
    (head,) = seen.asked
    lines = head.decode().split("\r\n")
    assert lines[0] == "GET /a.png HTTP/1.1"
    names = {line.partition(":")[0] for line in lines[1:] if line}
    assert names == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    assert "Accept-Encoding: identity" in lines


HOSTILE_ANSWERS: dict[str, tuple[bytes | Answer, Reason]] = {
    # Too much.
    "a length of 1 TB": (response("Content-Length: 1000000000000"), "size"),
    "one byte too many": (response("Content-Length: 100001", body=bytes(100_001)), "size"),
    "bytes without end": (flood(response(body=b""), bytes(65536)), "size"),
    "chunks without end": (
        flood(response("Transfer-Encoding: chunked", body=b""), b"1000\r\n" + bytes(4096) + b"\r\n"), "size"
    ),
    # Too slow.
    "a door that shuts": (b"", "unreachable"),
    "a slow head": (drip(response("X-Padding: " + "a" * 999)), "time"),
    "a slow body": (drip(response(f"Content-Length: {len(PICTURE)}")), "time"),
    "a body that never ends": (drip(response(body=PICTURE * 99)), "time"),
    "provisional answers without end": (flood(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "time"),
    # Packed.
    "a gzip bomb": (response("Content-Encoding: gzip", body=gzip.compress(bytes(10**6))), "type"),
    "a deflated one": (response("Content-Encoding: deflate"), "type"),
    "one packed twice": (response("Content-Encoding: identity", "Content-Encoding: br"), "type"),
    "one packed on its way": (response("Transfer-Encoding: gzip, chunked"), "unreachable"),
    # No picture.
    "a page": (response("Content-Type: text/html; charset=utf-8"), "type"),
    "JSON": (response("Content-Type: application/json"), "type"),
    "a type that begins like one": (response("Content-Type: imagery/png"), "type"),
    "not found": (response(status="404 Not Found"), "unreachable"),
    "an error": (response(status="500 Oops"), "unreachable"),
    "a part": (response("Content-Range: bytes 0-9/99", status="206 Partial Content"), "unreachable"),
    "nothing": (response(status="204 No Content", body=b""), "unreachable"),
    "choices": (response("Location: /b.png", status="300 Multiple Choices"), "unreachable"),
    # No HTTP.
    "rubbish": (b"\x16\x03\x01" * 99, "unreachable"),
    "a head without end": (flood(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 4000 + b"\r\n"), "unreachable"),
    "another protocol": (response(status="101 Switching Protocols"), "unreachable"),
    "two lengths": (response("Content-Length: 1", "Content-Length: 2"), "unreachable"),
    "a length below zero": (response("Content-Length: -1"), "unreachable"),
    "a length of a million digits": (response("Content-Length: " + "9" * 10**6), "unreachable"),
    "a longer length than there is": (response("Content-Length: 99999"), "unreachable"),
    "chunks of no size": (response("Transfer-Encoding: chunked", body=b"x\r\n"), "unreachable"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
def test_a_hostile_answer_is_refused(visit: Callable[..., Visit], name: str) -> None:
    answer, reason = HOSTILE_ANSWERS[name]
    seen = visit(answer, max_fetch_seconds=0.25 if reason == "time" else 5)
    assert seen.reasons == [reason]
    assert type(seen.outcome) is (ImageTooLarge if reason == "size" else InvalidImage)
    assert str(seen.outcome).startswith("image: ")
    assert "127.0.0.1" not in str(seen.outcome)


def test_a_length_that_is_too_short_ends_the_picture_there(visit: Callable[..., Visit]) -> None:
    assert visit(response("Content-Length: 9")).outcome == PICTURE[:9]


@pytest.mark.parametrize(
    "kind", ["", "image/png", "IMAGE/WEBP; a=b", "application/octet-stream", "binary/octet-stream"]
)
def test_a_type_that_may_be_a_picture_s_is_read(visit: Callable[..., Visit], kind: str) -> None:
    headers = [f"Content-Type: {kind}"] if kind else []
    assert visit(response(*headers)).outcome == PICTURE


HOSTILE_REDIRECTS: dict[str, tuple[str, Reason]] = {
    "to itself": ("/a.png", "redirect"),
    "to http": ("http://images.example/a.png", "url"),
    "to loopback": ("https://127.0.0.2:{port}/b.png", "address"),
    "to metadata": ("https://169.254.169.254/", "address"),
    "to IPv4-mapped metadata": ("https://[::ffff:169.254.169.254]/", "address"),
    "to a number": ("https://2130706433/", "host"),
    "to a file": ("file:///etc/passwd", "url"),
    "to a name and a password": ("https://me:you@images.example:{port}/b.png", "url"),
    "to a name alone": ("//me@images.example:{port}/b.png", "url"),
    "to another port": ("https://images.example:22/", "port"),
    "to a broken address": ("https://[::1", "redirect"),
    "to nowhere": ("", "redirect"),
    "to a backslash": ("https://images.example:{port}\\@127.0.0.2/b.png", "url"),
}


@pytest.mark.parametrize("name", HOSTILE_REDIRECTS)
def test_a_hostile_redirect_is_refused(visit: Callable[..., Visit], name: str) -> None:
    location, reason = HOSTILE_REDIRECTS[name]

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(redirect(location.format(port=writer.get_extra_info("sockname")[1])))

    seen = visit({"/a.png": answer, "/b.png": response()})
    assert seen.reasons == [reason]
    assert not any(head.startswith(b"GET /b.png") for head in seen.asked)


def test_redirects_without_end_are_followed_a_few_times(visit: Callable[..., Visit]) -> None:
    answers = {"/a.png": redirect("/b.png"), "/b.png": redirect("/a.png")}
    seen = visit(answers, max_fetch_redirects=2)
    assert seen.reasons == ["redirect"]
    assert len(seen.asked) == 3
    assert visit({"/a.png": redirect("/b.png")}, max_fetch_redirects=0).reasons == ["redirect"]


@pytest.mark.parametrize("status", ["301 a", "302 b", "303 c", "307 d", "308 e"])
def test_a_redirect_is_checked_anew_and_followed(visit: Callable[..., Visit], status: str) -> None:
    seen = visit({"/a.png": redirect("b.png?x#y", status), "/b.png?x": response()})
    assert seen.outcome == PICTURE
    assert seen.names == ["images.example"] * 2


def test_a_redirect_leads_never_from_https_to_http(visit: Callable[..., Visit]) -> None:
    seen = visit(redirect("http://images.example/a.png"), fetch_http=True)
    assert seen.reasons == ["redirect"]
    assert len(seen.asked) == 1


def test_http_is_opened_where_it_is_allowed(visit: Callable[..., Visit]) -> None:
    url = "http://images.example:{port}/a.png"
    assert visit(response(), url, server=None, fetch_http=True).outcome == PICTURE
    refused = visit(response(), url, server=None)
    assert refused.reasons == ["url"]
    assert refused.asked == []


def test_a_port_is_opened_only_where_it_is_listed(visit: Callable[..., Visit]) -> None:
    seen = visit(response(), fetch_ports=[8443])
    assert seen.reasons == ["port"]
    assert seen.asked == []


def test_a_certificate_is_checked_against_the_name(visit: Callable[..., Visit]) -> None:
    for url in ("https://other.example:{port}/a.png", "https://127.0.0.1:{port}/a.png"):
        seen = visit(response(), url)
        assert (seen.reasons == []) == ("127.0.0.1" in url)
        assert len(seen.asked) == ("127.0.0.1" in url)


def test_a_certificate_of_nobody_who_is_trusted_is_refused(visit: Callable[..., Visit]) -> None:
    seen = visit(response(), trusted=None)
    assert seen.reasons == ["unreachable"]
    assert seen.asked == []


@pytest.mark.parametrize(
    ("greeting", "reason"), [(b"", "time"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unreachable")]
)
def test_a_host_that_speaks_no_tls_is_given_up_and_let_go(
    trust: ssl.SSLContext, greeting: bytes, reason: Reason
) -> None:
    async def run() -> list[Reason]:
        reasons: list[Reason] = []
        gone = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            while await reader.read(4096):
                pass
            writer.close()
            gone.set()

        async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            fetcher = Fetcher(
                Settings(fetch_images=True, fetch_ports=[port], max_fetch_seconds=0.2),
                on_refused=reasons.append,
                is_allowed=lambda address: True,
                ssl_context=trust,
            )
            with pytest.raises(InvalidImage):
                await fetcher.fetch(f"https://127.0.0.1:{port}/", param="image")
            await asyncio.wait_for(gone.wait(), 5)
            await fetcher.close()
        return reasons

    assert asyncio.run(run()) == [reason]


def test_a_name_that_changes_its_mind_leads_nowhere_unchecked(
    server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    """The resolver's first answer is allowed, all others are not; both have a server at the same port."""
    told: list[Address] = []

    async def resolve(host: str, port: int) -> Sequence[Address]:
        told.append(ELSEWHERE if told else HOME)
        return (told[-1],)

    async def run() -> tuple[Site, Site, list[Reason]]:
        reasons: list[Reason] = []
        allowed, forbidden = Site({"/a.png": redirect("/b.png")}), Site({"/b.png": response()})
        async with (
            allowed.serve(server_context) as port,
            forbidden.serve(server_context, str(ELSEWHERE), port),
        ):
            fetcher = Fetcher(
                Settings(fetch_images=True, fetch_ports=[port]),
                on_refused=reasons.append,
                is_allowed=lambda address: address == HOME,
                resolve=resolve,
                ssl_context=trust,
            )
            with pytest.raises(InvalidImage, match="no public address"):
                await fetcher.fetch(f"https://images.example:{port}/a.png", param="image")
            await fetcher.close()
        return allowed, forbidden, reasons

    allowed, forbidden, reasons = asyncio.run(run())
    assert told == [HOME, ELSEWHERE]
    assert (len(allowed.asked), forbidden.asked, reasons) == (1, [], ["address"])


def test_the_next_address_is_tried_where_one_does_not_answer(
    server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    async def run() -> tuple[bytes, list[Reason]]:
        reasons: list[Reason] = []

        async def resolve(host: str, port: int) -> Sequence[Address]:
            return (ELSEWHERE, HOME) if host == "images.example" else (ELSEWHERE,)

        async with Site({"/a.png": response()}).serve(server_context) as port:
            fetcher = Fetcher(
                Settings(fetch_images=True, fetch_ports=[port]),
                on_refused=reasons.append,
                is_allowed=lambda address: True,
                resolve=resolve,
                ssl_context=trust,
            )
            with pytest.raises(InvalidImage, match="no proper answer"):
                await fetcher.fetch(f"https://nobody.example:{port}/a.png", param="image")
            fetched = await fetcher.fetch(f"https://images.example:{port}/a.png", param="image")
            await fetcher.close()
        return fetched, reasons

    assert asyncio.run(run()) == (PICTURE, ["unreachable"])


@asynccontextmanager
async def open_fetcher(
    site: Site, server_context: ssl.SSLContext, trust: ssl.SSLContext, **settings: Any
) -> AsyncIterator[tuple[Fetcher, str]]:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        return (HOME,)

    async with site.serve(server_context) as port:
        fetcher = Fetcher(
            Settings(fetch_images=True, fetch_ports=[port], **settings),
            is_allowed=lambda address: address == HOME,
            resolve=resolve,
            ssl_context=trust,
        )
        yield fetcher, f"https://images.example:{port}"
        await fetcher.close()


def test_few_are_fetched_at_once_and_none_is_forgotten(
    server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(response())

    async def run() -> int:
        site = Site({"/a.png": slowly})
        async with open_fetcher(site, server_context, trust) as (fetcher, base):
            fetches = [fetcher.fetch(f"{base}/a.png", param="image") for _ in range(MAX_AT_ONCE + 4)]
            assert set(await asyncio.gather(*fetches)) == {PICTURE}
        return site.most_open

    assert asyncio.run(run()) <= MAX_AT_ONCE


def test_addresses_and_files_are_read_together_in_order(
    server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    async def run() -> list[tuple[int, int]]:
        site = Site({"/a.png": response(body=as_file(noise(30, 30), "PNG"))})
        async with open_fetcher(site, server_context, trust) as (fetcher, base):
            images = await read_images(
                [PICTURE, f" {base}/a.png", as_file(noise(20, 20), "GIF")],
                param="images", limit=3, settings=Settings(), fetcher=fetcher,
            )  # fmt: skip
        return [image.size for image in images]

    assert asyncio.run(run()) == [(2, 1), (30, 30), (20, 20)]


def test_the_first_refusal_ends_the_other_fetches_and_names_its_image(
    server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    async def run() -> str | None:
        site = Site({"/slow.png": drip(PICTURE * 999), "/page": response("Content-Type: text/html")})
        async with open_fetcher(site, server_context, trust, max_fetch_seconds=60) as (fetcher, base):
            with pytest.raises(InvalidImage, match="no image") as refusal:
                await read_images(
                    [f"{base}/slow.png", f"{base}/page"],
                    param="images", limit=2, settings=Settings(), fetcher=fetcher,
                )  # fmt: skip
            async with asyncio.timeout(5):
                while site.num_open:
                    await asyncio.sleep(0.01)
        return refusal.value.param

    assert asyncio.run(run()) == "images.1"


def test_a_request_that_names_addresses_becomes_a_job_with_their_pictures(
    web: TestClient, server_context: ssl.SSLContext, trust: ssl.SSLContext
) -> None:
    app = web.app
    assert isinstance(app, FastAPI)

    async def run() -> Drawing:
        picture, mask = as_file(noise(32, 32), "WEBP"), as_file(noise(32, 32), "PNG")
        site = Site({"/a": redirect("/b"), "/b": response(body=picture), "/mask": response(body=mask)})
        async with open_fetcher(site, server_context, trust) as (fetcher, base):
            service = replace(app.state.service, fetcher=fetcher)
            asked = EditRequest(prompt="a", image=[f"{base}/a"], mask=f"{base}/mask")
            work = (await to_job(service, asked, "req-1", LOCAL)).work
        assert isinstance(work, Drawing)
        return work

    drawing = asyncio.run(run())
    assert [image.size for image in drawing.images] == [(32, 32)]
    assert drawing.mask
    assert drawing.mask.size == (32, 32)


def test_what_is_fetched_is_opened_as_warily_as_what_is_sent(visit: Callable[..., Visit]) -> None:
    page = b"<svg onload=alert(1)>"
    seen = visit(response("Content-Type: image/svg+xml", body=page))
    assert seen.outcome == page

    async def read() -> None:
        fetcher = Fetcher(Settings())
        try:
            await read_images([page], param="image", limit=1, settings=Settings(), fetcher=fetcher)
        finally:
            await fetcher.close()

    with pytest.raises(InvalidImage, match="none of PNG"):
        asyncio.run(read())


def test_every_reason_is_counted_by_its_word() -> None:
    metrics = Metrics()
    for reason in get_args(Reason):
        metrics.fetch_blocked(reason)
    lines = metrics.render().decode().splitlines()
    for reason in get_args(Reason):
        assert f'hbridge_fetch_blocked_total{{reason="{reason}"}} 1.0' in lines


def test_the_tables_of_hostile_addresses_and_answers_are_long() -> None:
    assert len(HOSTILE_URLS) + len(NAMES) + len(HOSTILE_ANSWERS) + len(HOSTILE_REDIRECTS) >= 60
