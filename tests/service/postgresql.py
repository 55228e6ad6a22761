"""A PostgreSQL server of the tests' own: Debian's, in a temporary folder, on a free port."""

import itertools
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

import psycopg
import pytest

from benchmarks.local_server import free_port

PROGRAMS = Path("/usr/lib/postgresql")
USER = "postgres"


def program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, of its newest version, installed if need be."""
    for attempt in (find, install):
        if found := attempt(name):
            return found
    pytest.fail("PostgreSQL is needed: apt-get install postgresql")


def find(name: str) -> str | None:
    return max(map(str, PROGRAMS.glob(f"*/bin/{name}")), default=None)


def install(name: str) -> str | None:
    for words in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        done = subprocess.run(["apt-get", "-q", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"PostgreSQL is needed, and apt-get {words[0]} failed: {done.stderr[-500:]}")
    return find(name)


class PostgreSQL:
    """A running server; as root it runs as the user that Debian made for it, which it insists on."""

    def __enter__(self) -> Self:
        pg_ctl = program("pg_ctl")
        self._folder = Path(mkdtemp(prefix="hbridge-postgresql-"))
        self._is_root = os.geteuid() == 0
        if self._is_root:
            shutil.chown(self._folder, USER, pwd.getpwnam(USER).pw_gid)
        self._port, self._data = free_port(), str(self._folder / "data")
        self._run(program("initdb"), "-D", self._data, "-A", "trust", "-U", "hbridge", "-E", "UTF8")
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control = (pg_ctl, "-D", self._data, "-w", "-l", str(self._folder / "log"))
        self._run(*self._control, "-o", options, "start")
        self._names = itertools.count()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(*self._control, "-m", "immediate", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{next(self._names)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgresql://hbridge@127.0.0.1:{self._port}/{name}"

    def _run(self, *words: str) -> None:
        user: dict[str, Any] = {"user": USER} if self._is_root else {}
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd="/", check=False, **user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
