"""What every committed figure carries: where, with what, from which commit, and by which command."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "diffusers", "numpy", "fastapi")


def circumstances(command: str) -> dict[str, object]:
    """Return device, versions, commit, date and command as plain data."""
    return {
        "command": command,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": device(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def device() -> str:
    """Name the accelerator, or the processor and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor() or platform.machine()


def commit() -> str:
    """Return the commit of the working tree, marked when files other than results differ from it."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results")
        return name + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_record(path: Path, command: str, content: Mapping[str, object]) -> dict[str, object]:
    """Write figures with their circumstances as JSON, and return the whole."""
    record = {**circumstances(command), **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return record


def invoked() -> str:
    """Return the command that this process was started with, without its folder."""
    name = Path(sys.argv[0]).name
    return " ".join([name if name != "__main__.py" else "python -m", *sys.argv[1:]])


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
