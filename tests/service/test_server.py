import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from model.errors import BadCheckpoint
from service.database import Database
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.key_store import KeyStore, Limits
from service.origin import is_loopback
from service.server import Server
from service.settings import Settings

HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LONG = {"prompt": "a", "num_inference_steps": 50}


@pytest.fixture
def client(gated_model: LoadedModel, make_client: Callable[..., Client]) -> Client:
    return make_client(gated_model)


@pytest.fixture
def running(client: Client, gated: Any, run_server: Callable[..., Any]) -> Iterator[Any]:
    with run_server(Settings(port=0, drain_seconds=5, max_body_bytes=10_000), client) as running:
        gated.num_calls = 0
        yield running
        gated.gate.set()


def test_the_greeting_is_where_the_server_is(running: Any) -> None:
    assert httpx.get(f"{running.greetings[0]}/readyz").json() == {"status": "ready"}


def asking(running: Any, answers: list[httpx.Response]) -> threading.Thread:
    """Ask for a picture in a thread."""
    url = f"{running.server.url}/v1/generate"
    thread = threading.Thread(target=lambda: answers.append(httpx.post(url, json={"prompt": "a"})))
    thread.start()
    return thread


def leave_early(running: Any, seen: Callable[[], bool], wait_until: Callable[..., None]) -> None:
    """Ask for a long job and close the connection before its answer."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.server.url}/v1/generate", json=LONG, timeout=httpx.Timeout(5, read=0.3))
    wait_until(seen)


def counted(running: Any) -> str:
    return httpx.get(f"{running.server.url}/metrics").text


CANCELLED = 'hbridge_requests_total{outcome="cancelled",task="generate"} 1.0'


def test_a_client_that_leaves_takes_its_running_job_along(
    running: Any, client: Client, gated: Any, wait_until: Callable[..., None]
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
    running: Any, client: Client, gated: Any, wait_until: Callable[..., None]
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
    running: Any, gated: Any, wait_until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gated.gate.clear()
    leave_early(
        running, lambda: any(getattr(each, "status", 0) == 499 for each in caplog.records), wait_until
    )
    (line,) = [each.__dict__ for each in caplog.records if getattr(each, "status", 0) == 499]
    assert (line["code"], line["path"]) == ("cancelled", "/v1/generate")


def test_a_body_is_refused_before_it_is_sent(running: Any) -> None:
    address = running.server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(HEAD + b"Content-Length: 10001\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_is_refused_when_it_is_too_long(running: Any) -> None:
    address = running.server.servers[0].sockets[0].getsockname()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2711\r\n" + b" " * 10001 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_shutdown_lets_running_jobs_finish_and_takes_no_more(
    running: Any, client: Client, gated: Any, wait_until: Callable[..., None]
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
    client: Client, gated: Any, run_server: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    with run_server(Settings(port=0, drain_seconds=0.2), client) as running:
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
    running: Any, client: Client, gated: Any, wait_until: Callable[..., None]
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
        asyncio.run(server.run_until_stopped(lambda url, warning: None))


@pytest.fixture
def running_anywhere(client: Client, settings: Settings, run_server: Callable[..., Any]) -> Iterator[Any]:
    """A server that other machines reach."""
    with run_server(settings.model_copy(update={"host": "0.0.0.0", "port": 0}), client) as running:
        yield running


def make_key(settings: Settings, **given: Any) -> str:
    """Make a key as `hbridge keys` does: from another process, as far as the server can see."""

    async def make() -> str:
        database = Database(settings.database)
        try:
            await database.start()
            return await KeyStore(database).create(**({"name": "ci", "tenant": "ann"} | given))
        finally:
            await database.stop()

    return asyncio.run(make())


def own_address() -> str:
    """Return an address of this machine that others may reach."""
    addresses = [each.address for all_of_one in psutil.net_if_addrs().values() for each in all_of_one]
    for address in addresses:
        if address.count(".") == 3 and not is_loopback(address):
            return str(address)
    pytest.skip("this machine has no address but its loopback")


def test_a_server_that_others_reach_without_keys_says_so_and_serves_none_of_them(
    running_anywhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (warning,) = running_anywhere.warnings
    assert "hbridge keys create" in warning
    port = running_anywhere.server.servers[0].sockets[0].getsockname()[1]
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
    assert httpx.get(f"{running_anywhere.greetings[0]}/v1/models").status_code == 200
    answer = httpx.get(f"http://{own_address()}:{port}/v1/models", headers={"X-Forwarded-For": "127.0.0.1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"http://{own_address()}:{port}/readyz").status_code == 200


def test_a_server_on_its_own_machine_needs_no_warning(running: Any) -> None:
    assert running.warnings == [""]


@pytest.mark.slow
@pytest.mark.parametrize(("trusted", "status"), [("", 429), ("10.0.0.1", 429), ("127.0.0.0/8", 401)])
def test_who_a_proxy_speaks_for_is_believed_of_trusted_ones_alone(
    client: Client, settings: Settings, run_server: Callable[..., Any], trusted: str, status: int
) -> None:
    make_key(settings, scopes=["generate"])
    wrong = {"Authorization": "Bearer hb-0000-" + "a" * 43}
    given = settings.model_copy(update={"port": 0, "trusted_proxies": trusted})
    with (
        run_server(given, client) as running,
        httpx.Client(base_url=running.server.url, headers=wrong) as proxy,
    ):
        for _ in range(20):
            assert proxy.get("/v1/models", headers={"X-Forwarded-For": "203.0.113.1"}).status_code == 401
        assert proxy.get("/v1/models", headers={"X-Forwarded-For": "203.0.113.2"}).status_code == status


@pytest.fixture
def key(settings: Settings) -> str:
    """A key that is there before the server starts."""
    return make_key(settings, scopes=["generate"], limits=Limits(rate="2/hour"))


def test_the_openai_client_brings_its_key_and_knows_every_refusal(
    key: str, running_anywhere: Any, settings: Settings
) -> None:
    from openai import AuthenticationError, OpenAI, PermissionDeniedError, RateLimitError  # noqa: PLC0415

    base_url = f"http://{own_address()}:{running_anywhere.server.url.rpartition(':')[2]}/v1"

    def client(key: str) -> OpenAI:
        return OpenAI(base_url=base_url, api_key=key, max_retries=0)

    stranger, edits = make_key(settings, tenant="bob", scopes=["metrics"]), {"prompt": "a", "image": "a"}
    with client(key) as ours, client(stranger) as others, client(key[:-4] + "aaaa") as nobodys:
        assert [model.id for model in ours.models.list()] == ["tiny"]
        with pytest.raises(AuthenticationError) as unknown:
            nobodys.models.list()
        assert unknown.value.code == "invalid_api_key"
        with pytest.raises(PermissionDeniedError) as forbidden:
            ours.post("/edit", body=edits, cast_to=object)
        assert forbidden.value.code == "missing_scope"
        body = {"prompt": "a", "num_inference_steps": 1}
        with pytest.raises(PermissionDeniedError):
            others.post("/generate", body=body, cast_to=object)
        for _ in range(2):
            ours.post("/generate", body=body, cast_to=object)
        with pytest.raises(RateLimitError) as limited:
            ours.post("/generate", body=body, cast_to=object)
        assert limited.value.code == "rate_limited"
        assert 3500 < int(limited.value.response.headers["retry-after"]) <= 3600


def test_a_key_in_a_file_is_good_from_the_start(
    client: Client, settings: Settings, tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    key = "hb-bootstrap-" + "k" * 43
    (tmp_path / "key").write_text(f"{key}\n")
    given = settings.model_copy(update={"host": "0.0.0.0", "port": 0, "bootstrap_key_file": tmp_path / "key"})
    with run_server(given, client) as running:
        assert running.warnings == [""]
        assert httpx.get(f"{running.server.url}/v1/models").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{running.server.url}/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("setting", "place", "words"),
    [
        ("store_url", "{}/file", "files cannot be kept at .*/file"),
        ("data_dir", "{}/file/folder", "database .* cannot be used .*Not a directory.* HBRIDGE_DATA_DIR"),
        (
            "database_url",
            "postgresql://ann:secret@127.0.0.1:9/jobs",
            r"ann:\*\*\*@.* cannot be used .*refused(.|\n)*HBRIDGE_DATABASE_URL",
        ),
    ],
)
def test_a_place_where_nothing_can_be_kept_ends_the_server(
    client: Client, tmp_path: Path, setting: str, place: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    given = {"data_dir": tmp_path / "data", setting: place.format(tmp_path), "provenance": "off"}
    server = Server(Settings(port=0, **given), client)
    with pytest.raises(OSError, match=words):
        asyncio.run(server.run_until_stopped(lambda url, warning: None))
