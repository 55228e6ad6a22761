"""A Redis server of the tests' own: Debian's, in a temporary folder, on a free port."""

import shutil
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

import pytest
import redis

from benchmarks.local_server import free_port


def program() -> str:
    """Return the path of Redis' server, installed if need be."""
    if found := shutil.which("redis-server"):
        return found
    for words in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
        done = subprocess.run(["apt-get", "-q", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"Redis is needed, and apt-get {words[0]} failed: {done.stderr[-500:]}")
    return shutil.which("redis-server") or pytest.fail("Redis is needed: apt-get install redis-server")


class RedisServer:
    """A running server, which keeps nothing on disk and may be stopped and started again.

    Attributes:
        url: Where it is.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Self:
        self._folder = Path(mkdtemp(prefix="hbridge-redis-"))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        words = [program(), "--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(words, cwd=self._folder, stdout=subprocess.DEVNULL)
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)
        with redis.Redis.from_url(self.url, retry=retry) as client:
            assert client.ping()

    def stop(self) -> None:
        """End it; may come twice."""
        self._process.kill()
        self._process.wait()
