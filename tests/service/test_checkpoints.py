import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pytest
from rich.console import Console

from model.checkpoint import load, weights_hash
from model.convert import convert
from model.errors import BadCheckpoint, BadRequest
from service.app import create_app
from service.checkpoints import UNTRAINED, convert_models, size_table
from service.engine.client import Client
from service.loading import load_model
from service.settings import Settings
from tests.service.local_client import local_client

OPTIONS: dict[str, Any] = {"bridge": None, "start": "identity", "config": None, "dtype": None}


def test_a_table_counts_every_part_and_all(model_folder: Path) -> None:
    lines = size_table(str(model_folder)).splitlines()
    rows = {cells[1].strip(): cells[2:5] for cells in (line.split("|") for line in lines[2:])}
    family = load(model_folder)
    weights = {name: weight.numel() for name, weight in family.module.named_parameters()}
    assert rows.keys() == {name.partition(".")[0] for name in weights} | {"all"}
    assert int(rows["all"][0].replace(",", "")) == sum(weights.values())


def test_a_table_needs_no_weights() -> None:
    assert "| transformer | 3,967,161,400 | 15.87 GB | 7.93 GB |" in size_table("omnigen2")


def test_what_is_no_model_has_no_table() -> None:
    with pytest.raises(BadCheckpoint, match="poodle is no folder"):
        size_table("poodle")


def test_a_folder_is_made_of_two_and_a_config(
    qwen_folder: Path, omnigen2_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"skip_first": 1, "skip_last": 1, "srt_count": 4}))
    screen = StringIO()
    options = OPTIONS | {"config": tmp_path / "config.json"}
    convert_models(
        str(qwen_folder), str(omnigen2_folder), tmp_path / "out", Console(file=screen, width=200), **options
    )
    assert load(tmp_path / "out").capabilities.tasks == ("generate", "edit", "understand")
    assert str(tmp_path / "out") in screen.getvalue()
    assert UNTRAINED in screen.getvalue()


@pytest.mark.parametrize("load_format", ["auto", "random"])
def test_what_is_made_serves_and_its_receipt_says_what_it_is(
    qwen_folder: Path,
    omnigen2_folder: Path,
    tmp_path: Path,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    *,
    load_format: Literal["auto", "random"],
) -> None:
    limits = {"min_side": 16, "max_side": 32, "max_pixels": 32 * 32, "default_size": [32, 32]}
    fields = {"skip_first": 1, "skip_last": 1, "srt_count": 4, "limits": limits}
    convert(qwen_folder, omnigen2_folder, tmp_path / "made", config=fields)
    settings = Settings(model=str(tmp_path / "made"), load_format=load_format)
    client = make_client(load_model(settings))
    with local_client(create_app(settings, client)) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        asked = {"prompt": "a circle", "num_inference_steps": 1}
        receipt = web.post("/v1/generate", json=asked).json()["receipt"]
        (card,) = web.get("/v1/models").json()["data"]
    stored = weights_hash(tmp_path / "made")
    assert (receipt["weights_sha256"] == stored) == (load_format == "auto")
    for said in (receipt, card):
        assert said["load_format"] == load_format
        assert said["weights_sha256"] == receipt["weights_sha256"]


@pytest.mark.parametrize("wrong", [{"start": "random"}, {"dtype": "int8"}])
def test_what_there_is_not_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong.values()))):
        convert_models("a", "b", tmp_path / "out", Console(quiet=True), **(OPTIONS | wrong))
