"""Prometheus' own checker, where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool, of Debian's package prometheus, is not installed"
)


def run_promtool(*arguments: str | Path) -> str:
    """Run a command of it and return what it printed; it must go well."""
    ended = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
