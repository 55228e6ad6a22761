import json
from pathlib import Path

import pytest
import torch

from training.record import PACKAGES, circumstances, commit, device, invoked, write_record


def test_a_record_says_where_with_what_from_which_commit_and_how(tmp_path: Path) -> None:
    write_record(tmp_path / "new/record.json", "make bench", {"figure": 1})
    record = json.loads((tmp_path / "new/record.json").read_text())
    assert record["figure"] == 1
    assert record["command"] == "make bench"
    assert record["device"] == device() != ""
    assert record["versions"].keys() == set(PACKAGES)
    assert record["versions"]["torch"] == torch.__version__
    assert {"commit", "date", "threads", "python"} <= record.keys()


def test_a_figure_may_not_hide_a_circumstance_by_accident() -> None:
    assert not {"scores", "figure"} & circumstances("x").keys()


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert commit() == "unknown"


@pytest.mark.parametrize(
    ("argv", "command"),
    [(["/x/bin/hbridge", "eval", "--seen"], "hbridge eval --seen"), (["/x/__main__.py", "a"], "python -m a")],
)
def test_the_command_is_told_without_its_folder(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert invoked() == command
