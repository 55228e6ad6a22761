"""One engine on several devices: a follower process for each device beside the first, started and ended here.

All are on one machine and meet through a file that only its owner can read. Whoever ends, for whatever
reason, ends the others too, and the engine's process is then started again with all of them.
"""

import atexit
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from threading import Thread
from typing import Never, cast

import torch
import torch.distributed as dist

from model.errors import ModelError
from model.family import Family
from model.parallel import NO_LIMIT, Group, ParallelFamily, follow
from service import logs
from service.devices import device_of, threads_each
from service.engine.job import LoadedModel
from service.settings import Settings

BOOT = "from sys import argv, path; path[:] = argv[1:]; from service.followers import main; main()"
LEAVE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Followers:
    """The processes that follow this one, from their start to their end.

    Args:
        settings: Those of the leader.
    """

    def __init__(self, settings: Settings) -> None:
        self.folder = Path(mkdtemp(prefix="hbridge-"))
        self._processes = [self._start(settings, rank) for rank in range(1, settings.devices)]
        for process in self._processes:
            Thread(target=self._watch, args=(process,), name="follower", daemon=True).start()

    def fail(self, error: Exception) -> Never:
        """End this process, and with it the others, who may wait for it in the middle of a step."""
        log.error("the devices work together no more", exc_info=error)
        logging.shutdown()
        self._tidy()
        os._exit(1)

    def close(self, family: ParallelFamily) -> None:
        """Let them end; those that do not in time are killed."""
        family.close()
        dist.destroy_process_group()
        for process in self._processes:
            try:
                process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._tidy()

    def _start(self, settings: Settings, rank: int) -> "subprocess.Popen[bytes]":
        """Start one, which ends when its standard input does."""
        command = [sys.executable, "-P", "-c", BOOT, *sys.path]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert process.stdin, "it was asked for"
        pickle.dump((settings, self.folder, rank), process.stdin)
        process.stdin.flush()
        return process

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        if code := process.wait():
            self.fail(ModelError(f"the process of another device ended with exit code {code}"))

    def _tidy(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def lead(model: LoadedModel, settings: Settings) -> LoadedModel:
    """Start followers, wait until they have loaded the same model, and return what computes with them."""
    followers = Followers(settings)
    family = ParallelFamily(model.family, _join(model, settings, followers.folder, 0), followers.fail)
    dist.barrier()
    atexit.register(followers.close, family)
    log.info("devices", extra={"count": settings.devices})
    return replace(model, family=cast(Family, family))


def _join(model: LoadedModel, settings: Settings, folder: Path, rank: int) -> Group:
    """Meet the others."""
    # They are on this machine, and what they send each other is not for the network.
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # noqa: TID251 - theirs, not ours
    device = torch.device(device_of(settings, rank))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=(folder / "store").as_uri(),
        rank=rank,
        world_size=settings.devices,
        timeout=NO_LIMIT,
    )
    return Group(model.family, device, model.runner)


def main() -> None:
    """Be a follower."""
    from service.loading import load_model  # noqa: PLC0415 - which imports this module

    for number in (signal.SIGINT, signal.SIGTERM):
        # They may come to all processes of a unit; the leader says when to end.
        signal.signal(number, signal.SIG_IGN)
    settings, folder, rank = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_leader, args=(folder,), name="leader", daemon=True).start()
    logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
    torch.set_num_threads(threads_each(settings))
    try:
        model = load_model(settings.model_copy(update={"device": device_of(settings, rank), "devices": 1}))
    except ModelError as error:
        log.critical("the model is not loaded on another device: %s", error)
        sys.exit(1)
    group = _join(model, settings, folder, rank)
    dist.barrier()
    follow(group)
    dist.destroy_process_group()


def _end_with_leader(folder: Path) -> None:
    """Wait for the end of what the leader holds open, however it ends, and tidy up behind it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
