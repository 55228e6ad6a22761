import subprocess
import sys

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app


def run(*words: str) -> tuple[int, str]:
    """Run a command; return its status and what it says, unfolded."""
    result = CliRunner().invoke(app, words, env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("load", ("--url", "--seconds", "--shares", "--arrivals", "--seed", "--output")),
        ("engine", ("--quick", "--output")),
        ("packing", ("--repeats", "--layers", "--output")),
        ("drill", ("--kills", "--seed", "--output")),
        ("gpu", ("--toy", "--device", "--seconds", "--only", "--seed", "--commit", "--output")),
    ],
)
def test_help_names_every_option(command: str, options: tuple[str, ...]) -> None:
    status, text = run(command, "--help")
    assert status == 0
    assert all(option in text for option in options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "--arrivals", "tidal"), "'tidal' must be one of poisson, burst"),
        (("load", "--url", "http://127.0.0.1:9", "--output", "x.json"), "http://127.0.0.1:9: "),
    ],
)
def test_what_the_user_can_change_is_said_in_a_line(words: tuple[str, ...], said: str) -> None:
    status, text = run(*words)
    assert status == 2
    assert said in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_bench_is_a_command_of_hbridge() -> None:
    words = [sys.executable, "-m", "service", "bench", "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert all(name in text for name in ("load", "engine", "packing", "drill", "gpu", "report"))
