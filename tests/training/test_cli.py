import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.cli import examine, train
from training.evaluation import SUITES
from training.full import Full
from training.recipe import Recipe

app = typer.Typer()
app.command("train")(train)
app.command("eval")(examine)


def run(*words: str) -> tuple[int, str]:
    """Run a command; return its status and what it says, unfolded."""
    result = CliRunner().invoke(app, words, env={"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"})
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["train", "eval"])
def test_help_names_every_option(command: str) -> None:
    status, text = run(command, "--help")
    options = {"train": ("--recipe", "--stage", "--runs"), "eval": ("--model", "--server", "--suite")}
    assert status == 0
    assert all(option in text for option in options[command])


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (("train", "--recipe", "huge"), ("full", "tiny")),
        (("train", "--stage", "oven"), (*Recipe.STAGES, *Recipe.ASIDE)),
        (("train", "--stage", "vae", "--recipe", "full"), Full.STAGES),
        (("eval", "--suite", "sing"), SUITES),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    words: tuple[str, ...], choices: tuple[str, ...]
) -> None:
    status, text = run(*words)
    assert status == 2
    assert f"{words[2]!r} must be one of {', '.join(choices)}" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "--size", "big"), 'must be "WIDTHxHEIGHT" in pixels'),
        (("eval", "--model", "nowhere"), "nowhere is no folder"),
        (("eval", "--quantization", "fp8"), "capability 8.9"),
        (("eval", "--server", "http://127.0.0.1:9", "--output", "x.json"), "http://127.0.0.1:9: "),
        (("train", "--stage", "prior", "--runs", "nowhere"), "run stage latents first"),
    ],
)
def test_what_the_user_can_change_is_said_in_a_line(words: tuple[str, ...], said: str) -> None:
    status, text = run(*words)
    assert status == 2
    assert said in text
    assert "Traceback" not in text


def test_an_examination_is_written_down_with_its_circumstances(drawing_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    words = ("--suite", "generate", "--per-kind", "1", "--size", "64x64", "--output", str(output))
    status, text = run("eval", "--model", str(drawing_folder), *words)
    record = json.loads(output.read_text())
    assert status == 0, text
    assert record["model"] == drawing_folder.name
    assert record["scores"].keys() == {"generate"}
    assert {"weights_hash", "commit", "device", "versions"} <= record.keys()
    assert (tmp_path / "scores-generate.png").is_file()
