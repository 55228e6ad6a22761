import asyncio
import base64
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, update
from standardwebhooks import Webhook, WebhookVerificationError

from service.database import Database
from service.fetch import FetchRefused
from service.webhooks import (
    DeliveryRow,
    UnsafeAddress,
    Webhooks,
    allowed,
    announce,
    check_secret,
    check_url,
    deliver,
    new_delivery,
)

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


class Receiver:
    """A client's own server, which answers as told."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.leaving = threading.Event()
        self.messages: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path.endswith("/never"):
                    receiver.leaving.wait(20)
                    return
                receiver.messages.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("content-length", "0")
                self.send_header("location", receiver.url)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.leaving.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


class Post:
    """Webhooks of a database, with what they said of their tries."""

    def __init__(self, database: Database, **options: Any) -> None:
        self.database = database
        self.told: list[str] = []
        whole: dict[str, Any] = {"max_attempts": 3, "pause_seconds": 0.01, "allow_private": True}
        self.webhooks = Webhooks(database, tell=self.told.append, **(whole | options))

    async def add(self, url: str, job_id: str = "job-1") -> None:
        async with self.database.session() as session:
            session.add(new_delivery(job_id, url, SECRET))
            await session.flush()
            await announce(session, job_id, "job.succeeded", {"id": job_id})
        self.webhooks.wake()

    async def row(self) -> DeliveryRow:
        async with self.database.session() as session:
            return (await session.scalars(select(DeliveryRow))).one()

    async def until(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.told
            await asyncio.sleep(0.005)
            self.webhooks.wake()


def run(database_url: str, test: Callable[[Post], Awaitable[None]], **options: Any) -> None:
    async def started() -> None:
        database = Database(database_url)
        await database.start()
        post = Post(database, **options)
        post.webhooks.start()
        try:
            await test(post)
        finally:
            await post.webhooks.stop()
            await database.stop()

    asyncio.run(started())


def test_a_message_is_signed_and_its_receiver_can_verify_it(database_url: str, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.add(receiver.url)
        await post.until(lambda: post.told == ["delivered"])
        assert (await post.row()).state == "delivered"

    run(database_url, test)
    ((headers, body),) = receiver.messages
    told = Webhook(SECRET).verify(body, headers)
    assert (told["type"], told["data"]) == ("job.succeeded", {"id": "job-1"})
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)


def test_what_fails_is_tried_again_under_the_same_id_and_signed_anew(
    database_url: str, receiver: Receiver
) -> None:
    receiver.answers = [500, 302]

    async def test(post: Post) -> None:
        await post.add(receiver.url)
        await post.until(lambda: len(post.told) == 3)
        assert post.told == ["retried", "retried", "delivered"]
        assert (await post.row()).attempts == 3

    run(database_url, test)
    assert len({headers["webhook-id"] for headers, _ in receiver.messages}) == 1
    assert len({body for _, body in receiver.messages}) == 1
    for headers, body in receiver.messages:
        Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize(("answers", "num_tries"), [([500] * 9, 3), ([410], 1)])
def test_in_the_end_it_is_given_up(
    database_url: str, receiver: Receiver, answers: list[int], num_tries: int
) -> None:
    receiver.answers = list(answers)

    async def test(post: Post) -> None:
        await post.add(receiver.url)
        await post.until(lambda: post.told[-1:] == ["failed"])
        row = await post.row()
        assert (row.state, row.due, row.attempts) == ("failed", None, num_tries)

    run(database_url, test)
    assert len(receiver.messages) == num_tries


def test_pauses_grow_and_differ(database_url: str) -> None:
    async def test(post: Post) -> None:
        pauses = [[post.webhooks._pause(attempts) for _ in range(50)] for attempts in range(1, 9)]
        for one, next_one in pairwise(pauses):
            assert max(one) < min(next_one)
            assert len(set(one)) > 1
        assert post.webhooks._pause(99) <= 1.5 * 24 * 3600

    run(database_url, test, pause_seconds=5)


def test_what_was_not_delivered_before_the_end_is_delivered_after_the_next_start(
    database_url: str, receiver: Receiver
) -> None:
    receiver.answers = [503]

    async def before(post: Post) -> None:
        await post.add(receiver.url)
        await post.until(lambda: post.told == ["retried"])
        async with post.database.session() as session:
            await session.execute(update(DeliveryRow).values(due=time.time()))

    async def after(post: Post) -> None:
        await post.until(lambda: post.told == ["delivered"])

    run(database_url, before, pause_seconds=60)
    run(database_url, after)
    assert len(receiver.messages) == 2


def test_two_servers_of_one_database_send_a_message_once(database_url: str, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        other = Post(post.database)
        other.webhooks.start()
        for number in range(8):
            await post.add(receiver.url, f"job-{number}")
            other.webhooks.wake()
        await post.until(lambda: len(post.told + other.told) >= 8)
        await asyncio.sleep(0.05)
        await other.webhooks.stop()

    run(database_url, test, pause_seconds=60)
    assert len(receiver.messages) == 8


def test_who_never_answers_holds_nobody_else_up(database_url: str, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.add(f"{receiver.url}/never", "job-1")
        await post.add(receiver.url, "job-2")
        await post.until(lambda: post.told == ["delivered"])

    run(database_url, test)


def test_nothing_is_sent_into_private_networks(database_url: str, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.add(receiver.url.replace("http:", "https:"))
        await post.until(lambda: post.told[-1:] == ["failed"])

    run(database_url, test, allow_private=False)
    assert receiver.messages == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "ftp://example.org",
        "example.org",
        "",
        "https://",
        "https://user:password@example.org",
        "https://[::1",
        "https://example.org:99999999",
        "https://127.0.0.1",
        "https://10.1.2.3",
        "https://169.254.169.254/latest",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://[2002:7f00:1::]",
        "https://224.0.0.1",
        "https://0.0.0.0",
    ],
)
def test_an_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(UnsafeAddress):
        check_url(url, allow_private=False)


def test_a_name_is_refused_by_where_it_leads(receiver: Receiver) -> None:
    named = receiver.url.replace("127.0.0.1", "localhost")
    check_url("https://localhost/hook", allow_private=False)
    with pytest.raises(FetchRefused, match="no public address"):
        asyncio.run(deliver(named, b"{}", {}, is_allowed=allowed(False)))
    assert receiver.messages == []
    assert asyncio.run(deliver(named, b"{}", {}, is_allowed=allowed(True))) == 204
    assert len(receiver.messages) == 1


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", SECRET[6:], "whsec_" + "a" * 8, SECRET + "a"])
def test_what_is_no_secret_is_refused(secret: str) -> None:
    check_secret(SECRET)
    with pytest.raises(ValueError, match="whsec_"):
        check_secret(secret)


def test_a_message_holds_no_more_than_was_said(database_url: str, receiver: Receiver) -> None:
    async def test(post: Post) -> None:
        await post.add(receiver.url)
        await post.until(lambda: post.told == ["delivered"])

    run(database_url, test)
    headers, body = receiver.messages[0]
    assert set(json.loads(body)) == {"type", "timestamp", "data"}
    assert headers["content-type"] == "application/json"
