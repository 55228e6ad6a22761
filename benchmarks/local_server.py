"""A server of this machine, in processes of its own, for as long as something is measured on it."""

import os
import socket
import subprocess
import sys
import time
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Self

import httpx
import psutil

from service.engine.errors import EngineNotReady

READY_WITHIN_SECONDS = 180
STOPPED_WITHIN_SECONDS = 60
LAST_WORDS = 2000
ENGINE = "service.engine.child"


class LocalServer:
    """`hbridge serve` on a free port and with data of its own, from its first ready answer to its stop.

    Args:
        settings: HBRIDGE_* variables beside those of this process.
    """

    def __init__(self, **settings: str) -> None:
        self._port = free_port()
        self._data = TemporaryDirectory(prefix="local-server-")
        own = {"HBRIDGE_DATA_DIR": self._data.name} | settings
        self._environment = {**os.environ, **own}  # noqa: TID251 - the server is a process of its own
        self._log = TemporaryFile()  # noqa: SIM115 - closed on the way out
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command(), env=self._environment, stdout=subprocess.DEVNULL, stderr=self._log
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOPPED_WITHIN_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()
            self._data.cleanup()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def is_alive(self) -> bool:
        """Whether the process that listens has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the one that listens."""
        return self._process.pid

    @property
    def engine_pid(self) -> int | None:
        """The process id of its engine; None while there is none."""
        return child_of(self._process.pid, ENGINE)

    @property
    def rss_bytes(self) -> int:
        """Memory of the process that listens, without its engine's."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    @property
    def num_fds(self) -> int:
        """Files and sockets that it holds open."""
        return int(psutil.Process(self._process.pid).num_fds())

    @property
    def log(self) -> str:
        """What it has logged."""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "service", "serve", "--port", str(self._port)]

    def _wait_until_ready(self) -> None:
        deadline = time.perf_counter() + READY_WITHIN_SECONDS
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while not is_ready(client):
                if not self.is_alive or time.perf_counter() > deadline:
                    raise EngineNotReady(f"the server did not become ready:\n{self.log[-LAST_WORDS:]}")
                time.sleep(0.05)


def is_ready(client: httpx.Client) -> bool:
    """Say whether a server takes jobs."""
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def child_of(parent: int, mark: str) -> int | None:
    """Return the process id of a child that has this mark in its command line."""
    for child in psutil.Process(parent).children():
        try:
            if any(mark in word for word in child.cmdline()):
                return child.pid
        except psutil.Error:
            continue
    return None
