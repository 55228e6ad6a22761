from pathlib import Path
from typing import Literal

import pytest

from model.checkpoint import weights_hash
from model.errors import BadCheckpoint
from service.loading import UnusableDevice, create_client, load_model, model_id
from service.settings import Settings


def test_a_loaded_model_says_what_it_is(model_folder: Path) -> None:
    loaded = load_model(Settings(model=str(model_folder)))
    assert loaded.card.id == model_folder.name
    assert loaded.card.weights_hash == weights_hash(model_folder)
    assert (loaded.card.device, loaded.card.dtype) == ("cpu", "float32")


def test_the_id_is_the_last_part_of_the_name() -> None:
    assert model_id(Settings(model="hbridge-tiny")) == "hbridge-tiny"
    assert model_id(Settings(model="/models/mine/")) == "mine"


def test_a_device_that_is_not_there_is_refused(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UnusableDevice, match="HBRIDGE_DEVICE"):
        load_model(Settings(model=str(model_folder), device="cuda:0"))


@pytest.mark.parametrize("engine", ["process", "inline"])
def test_a_client_is_made_without_loading_anything(
    tmp_path: Path, engine: Literal["process", "inline"]
) -> None:
    assert create_client(Settings(model=str(tmp_path / "none"), engine=engine)).model_id == "none"
    with pytest.raises(BadCheckpoint):
        load_model(Settings(model=str(tmp_path / "none")))
