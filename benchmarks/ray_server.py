"""hbridge on a Ray cluster of this machine alone, for as long as something is tried or measured on it."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.local_server import LocalServer

STOPPED_WITHIN_SECONDS = 60
ENGINE = "ServeReplica:hbridge:Engine"


class RayServer(LocalServer):
    """`serve run` with a configuration of its own, from its first ready answer to its stop.

    Args:
        options: Arguments of service/ray_app.py.
        deployments: What Serve's configuration says of deployments, beside what the application does.
        settings: HBRIDGE_* variables beside those of this process, and Ray's.
    """

    def __init__(
        self, options: dict[str, Any], deployments: Sequence[dict[str, Any]] = (), **settings: str
    ) -> None:
        own = {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
        super().__init__(**own, **settings)
        self._folder = TemporaryDirectory(prefix="ray-server-")
        self._application = {
            "name": "hbridge",
            "import_path": "service.ray_app:app",
            "route_prefix": "/",
            "args": options,
            "deployments": list(deployments),
        }

    def __exit__(self, *_: object) -> None:
        started = self._descendants()
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOPPED_WITHIN_SECONDS)
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(started, STOPPED_WITHIN_SECONDS)
        self._folder.cleanup()
        super().__exit__()

    @property
    def engine_pids(self) -> list[int]:
        """The process ids of the engines' replicas, each of which has a process of its own for the model."""
        return [each.pid for each in self._descendants() if _is_replica(each)]

    @property
    def num_engines_up(self) -> int:
        """Engines that the server has found, less those that it has lost."""
        log = self.log
        return log.count("replica up") - log.count("replica gone")

    @property
    def engine_environments(self) -> list[dict[str, str]]:
        """What each engine's process was started with."""
        return [child.environ() for pid in self.engine_pids for child in psutil.Process(pid).children()]

    def engine_seconds(self) -> dict[int, float]:
        """Return the processor time of each engine, by its replica's process id."""
        return {pid: _cpu_seconds(pid) for pid in self.engine_pids}

    def _command(self) -> list[str]:
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self._port},
            "applications": [self._application],
        }
        path = Path(self._folder.name) / "config.yaml"
        path.write_text(json.dumps(config))  # which is YAML too
        return [str(Path(sys.executable).with_name("serve")), "run", str(path)]

    def _descendants(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


def _is_replica(process: psutil.Process) -> bool:
    try:
        return ENGINE in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _cpu_seconds(pid: int) -> float:
    times = [child.cpu_times() for child in psutil.Process(pid).children()]
    return float(sum(each.user + each.system for each in times))
