import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.errors import BadCheckpoint
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.server import Server
from service.settings import Settings

HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
LONG = {"prompt": "a", "num_inference_steps": 50}


class Running:
    """A real server on a free port, in a thread of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.greetings: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self.server.run_until_stopped(self.greetings.append))

    def __enter__(self) -> "Running":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.join()

    def join(self) -> None:
        """Wait for the server to end."""
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def client(gated_model: LoadedModel, make_client: Callable[..., Client]) -> Client:
    return make_client(gated_model)


@pytest.fixture
def running(client: Client, gated: Any, wait_until: Callable[..., None]) -> Iterator[Running]:
    with Running(Server(Settings(port=0, drain_seconds=5, max_body_bytes=10_000), client)) as running:
        wait_until(lambda: bool(running.greetings))
        gated.num_calls = 0
        yield running
        gated.gate.set()


def test_the_greeting_is_where_the_server_is(running: Running) -> None:
    assert httpx.get(f"{running.greetings[0]}/readyz").json() == {"status": "ready"}


def asking(running: Running, answers: list[httpx.Response]) -> threading.Thread:
    """Ask for a picture in a thread."""
    url = f"{running.server.url}/v1/generate"
    thread = threading.Thread(target=lambda: answers.append(httpx.post(url, json={"prompt": "a"})))
    thread.start()
    return thread


def leave_early(running: Running, seen: Callable[[], bool], wait_until: Callable[..., None]) -> None:
    """Ask for a long job and close the connection before its answer."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.server.url}/v1/generate", json=LONG, timeout=httpx.Timeout(5, read=0.3))
    wait_until(seen)


def counted(running: Running) -> str:
    return httpx.get(f"{running.server.url}/metrics").text


CANCELLED = 'hbridge_requests_total{outcome="cancelled",task="generate"} 1.0'


def test_a_client_that_leaves_takes_its_running_job_along(
    running: Running, client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    leave_early(running, lambda: CANCELLED in counted(running), wait_until)
    assert client.num_running == gated.num_calls == 1
    gated.gate.set()
    wait_until(lambda: client.num_running == 0)
    assert gated.num_calls == 1
    assert 'hbridge_cancellations_total{stage="denoise"} 1.0' in counted(running)
    assert httpx.post(f"{running.server.url}/v1/generate", json={"prompt": "c"}).status_code == 200


def test_a_client_that_leaves_takes_its_waiting_job_along(
    running: Running, client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    answers: list[httpx.Response] = []
    other = asking(running, answers)
    wait_until(lambda: gated.num_calls == 1)
    leave_early(running, lambda: CANCELLED in counted(running), wait_until)
    assert (client.num_running, client.num_waiting) == (1, 0)
    assert 'hbridge_cancellations_total{stage="queue"} 1.0' in counted(running)
    gated.gate.set()
    other.join(20)
    assert answers[0].status_code == 200


def test_a_client_that_leaves_is_in_the_log(
    running: Running, gated: Any, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gated.gate.clear()
    leave_early(
        running, lambda: any(getattr(each, "status", 0) == 499 for each in caplog.records), wait_until
    )
    (line,) = [each.__dict__ for each in caplog.records if getattr(each, "status", 0) == 499]
    assert (line["code"], line["path"]) == ("cancelled", "/v1/generate")


def test_a_body_is_refused_before_it_is_sent(running: Running) -> None:
    address = running.server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(HEAD + b"Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_is_refused_when_it_is_too_long(running: Running) -> None:
    address = running.server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2711\r\n" + b" " * 10001 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_shutdown_lets_running_jobs_finish_and_takes_no_more(
    running: Running, client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    answers: list[httpx.Response] = []
    other = asking(running, answers)
    wait_until(lambda: gated.num_calls == 1)
    running.server.handle_exit(15, None)
    assert httpx.get(f"{running.server.url}/livez").status_code == 200
    for refused in (
        httpx.get(f"{running.server.url}/readyz"),
        httpx.post(f"{running.server.url}/v1/generate", json={"prompt": "b"}),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert not client.is_idle
    gated.gate.set()
    other.join(20)
    assert answers[0].status_code == 200
    running.join()


def test_a_shutdown_cuts_off_what_does_not_finish_in_time(
    client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    with Running(Server(Settings(port=0, drain_seconds=0.2), client)) as running:
        wait_until(lambda: bool(running.greetings))
        gated.num_calls = 0
        gated.gate.clear()
        answers: list[httpx.Response] = []
        other = asking(running, answers)
        wait_until(lambda: gated.num_calls == 1)
        running.server.handle_exit(15, None)
        threading.Timer(0.5, gated.gate.set).start()
        other.join(20)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "draining")
        running.join()


def test_a_second_signal_does_not_wait(
    running: Running, client: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    other = asking(running, [])
    wait_until(lambda: gated.num_calls == 1)
    running.server.handle_exit(15, None)
    assert not running.server.should_exit
    running.server.handle_exit(15, None)
    assert running.server.should_exit
    gated.gate.set()
    other.join(20)


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    def load() -> LoadedModel:
        raise BadCheckpoint("missing everything")

    server = Server(Settings(port=0), Client(InlineEngine(load, EngineConfig()), model_id="none"))
    with pytest.raises(BadCheckpoint, match="everything"):
        asyncio.run(server.run_until_stopped(lambda url: None))


def test_a_place_where_nothing_can_be_kept_ends_the_server(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = Server(Settings(port=0, data_dir=tmp_path, store_url=str(tmp_path / "file")), client)
    with pytest.raises(SystemExit):
        asyncio.run(server.run_until_stopped(lambda url: None))
