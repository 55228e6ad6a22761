import os
import subprocess
import sys

import httpx
import psutil
import pytest

from benchmarks.local_server import ENGINE, LocalServer, child_of, free_port, is_ready
from service.engine.errors import EngineNotReady


def test_a_child_is_found_by_its_command_line() -> None:
    words = [sys.executable, "-c", "import sys; sys.stdin.read()", "mark-of-a-child"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as child:
        assert child_of(os.getpid(), "mark-of-a-child") == child.pid
        assert child_of(os.getpid(), "mark-of-nobody") is None
        assert child_of(child.pid, "mark-of-a-child") is None
        assert child.stdin
        child.stdin.close()


def test_who_does_not_listen_is_not_ready() -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port()}") as client:
        assert not is_ready(client)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_lives_as_long_as_it_is_measured(model_folder: object) -> None:
    with LocalServer(HBRIDGE_MODEL=str(model_folder)) as server:
        assert httpx.get(server.url + "/readyz").is_success
        pid = server.engine_pid
        assert pid is not None
        assert server.rss_bytes > 2**20
        assert psutil.Process(pid).ppid() == server.pid
        assert server.num_fds > 3
    assert not server.is_alive
    assert child_of(os.getpid(), ENGINE) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(EngineNotReady, match="nowhere"), LocalServer(HBRIDGE_MODEL="nowhere"):
        pass
