"""A tiny real model behind the engine and the app; tests that need to hold a step hold the gate."""

import asyncio
import base64
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.app import create_app
from service.cli import app
from service.database import Database
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.loading import load_model
from service.logs import OURS
from service.server import Server
from service.settings import Settings
from tests.service.local_client import local_client, make_key
from tests.service.postgresql import PostgreSQL


@pytest.fixture
def run(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command and returns its exit code and all it wrote."""
    monkeypatch.setenv("HBRIDGE_MODEL", str(model_folder))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return run


@pytest.fixture(autouse=True)
def _untouched_loggers() -> Iterator[None]:
    """Let no test change how others log."""
    root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, disabled = root.handlers[:], access.disabled
    levels = {name: logging.getLogger(name).level for name in ("", "uvicorn", *OURS)}
    yield
    root.handlers[:], access.disabled = handlers, disabled
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class Gated:
    """A family whose velocity calls wait while the gate is closed."""

    def __init__(self, family: Any) -> None:
        self._family = family
        self.gate = threading.Event()
        self.gate.set()
        self.num_calls = 0

    def velocity(self, rows: Any) -> Any:
        self.num_calls += 1
        assert self.gate.wait(20), "the test left the gate closed"
        return self._family.velocity(rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)


class Running:
    """A real server on a free port, in a thread of its own; ready when entered."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.server = Server(settings, client)
        self.greetings: list[str] = []
        self.warnings: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self.server.run_until_stopped(self._greet))

    def _greet(self, url: str, warning: str) -> None:
        self.warnings.append(warning)
        self.greetings.append(url)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    def start(self) -> None:
        """Wait until it listens; its model may not be ready."""
        self._thread.start()
        while self._thread.is_alive() and not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Wait until it has ended."""
        self.server.should_exit = True
        self.join()

    def __enter__(self) -> Self:
        self.start()
        while self._thread.is_alive() and not self.greetings:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def join(self) -> None:
        """Wait for the server to end."""
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def run_server() -> type[Running]:
    """Return what runs a real server, from its settings and its client."""
    return Running


@pytest.fixture(scope="session")
def loaded(model_folder: Path) -> LoadedModel:
    return load_model(Settings(model=str(model_folder)))


@pytest.fixture
def gated(loaded: LoadedModel) -> Iterator[Gated]:
    family = Gated(loaded.family)
    yield family
    family.gate.set()


@pytest.fixture
def gated_model(loaded: LoadedModel, gated: Gated) -> LoadedModel:
    return replace(loaded, family=gated)


@pytest.fixture(scope="session")
def make_client() -> Callable[..., Client]:
    """Return a function from a loaded model to a client that has not started."""

    def make(model: LoadedModel, *, max_waiting: int = 4, **config: Any) -> Client:
        host = InlineEngine(lambda: model, EngineConfig(max_waiting=max_waiting, **config))
        return Client(host, model_id=model.card.id)

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # Without a signature, files of equal pictures are equal.
    return Settings(data_dir=tmp_path / "data", provenance="off")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 bucket, of a server of our own."""
    import boto3  # noqa: PLC0415 - takes long
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="pictures")
    yield "s3://pictures/of/ours"
    server.stop()


@pytest.fixture
def use(database_url: str) -> Callable[[Callable[[Database], Awaitable[Any]]], Any]:
    """Return a function that runs something on the database, from its start to its stop, and returns it."""

    async def run(work: Callable[[Database], Awaitable[Any]]) -> Any:
        database = Database(database_url)
        try:
            await database.start()
            return await work(database)
        finally:
            await database.stop()

    return lambda work: asyncio.run(run(work))


@pytest.fixture
def keyed_web(
    loaded: LoadedModel,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    settings: Settings,
) -> Iterator[TestClient]:
    """An app of this test's own that is ready, and demands keys."""
    with local_client(create_app(settings, make_client(loaded)), raise_server_exceptions=False) as web:
        make_key(web, tenant="somebody")
        wait_until(lambda: web.get("/readyz").status_code == 200)
        yield web


@pytest.fixture(scope="session")
def make_web(
    make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> Callable[..., AbstractContextManager[TestClient]]:
    """Return a function that runs an app of a model and settings, as long as it is ready."""

    @contextmanager
    def make(model: LoadedModel, settings: Settings, **limits: int) -> Iterator[TestClient]:
        client = make_client(model, **limits)
        with local_client(create_app(settings, client), raise_server_exceptions=False) as web:
            wait_until(lambda: web.get("/readyz").status_code == 200)
            yield web

    return make


@pytest.fixture(scope="session")
def web(
    loaded: LoadedModel, make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> Iterator[TestClient]:
    """An app that is ready, over the loaded model, with small limits; without a signature files are equal."""
    limits = {"max_body_bytes": 200_000, "max_image_pixels": 10_000, "max_prompt_chars": 60, "max_tokens": 16}
    settings = Settings(**limits, provenance="off")
    with local_client(create_app(settings, make_client(loaded)), raise_server_exceptions=False) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture
def gated_web(
    gated_model: LoadedModel,
    gated: Gated,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    settings: Settings,
) -> Iterator[TestClient]:
    """An app of this test's own that is ready; two jobs may wait."""
    client = make_client(gated_model, max_waiting=2)
    with local_client(create_app(settings, client), raise_server_exceptions=False) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        gated.num_calls = 0
        yield web
        gated.gate.set()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """Return a function that makes a picture's file."""

    def make(width: int = 32, height: int = 32, color: str = "red") -> bytes:
        file = BytesIO()
        Image.new("RGB", (width, height), color).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def png64(png: Callable[..., bytes]) -> Callable[..., str]:
    """Return a function that makes a picture's file in base64."""
    return lambda *args: base64.b64encode(png(*args)).decode()
