import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import pytest

from model.checkpoint import weights_hash
from model.drawing import Drawing
from model.errors import BadCheckpoint, UnusableQuantization
from model.pipeline import draw
from model.quantize import SCHEMES, stored_bytes
from service.app import create_app
from service.devices import UnusableDevice
from service.engine.client import Client
from service.loading import ProgressLog, create_client, load_model, model_id
from service.schemas.answers import Quantization
from service.settings import Settings
from tests.service.local_client import local_client


def test_a_loaded_model_says_what_it_is(model_folder: Path) -> None:
    loaded = load_model(Settings(model=str(model_folder)))
    assert loaded.card.id == model_folder.name
    assert loaded.card.weights_hash == weights_hash(model_folder)
    assert (loaded.card.device, loaded.card.dtype) == ("cpu", "float32")


def test_other_weights_than_are_expected_are_refused(model_folder: Path) -> None:
    expected = weights_hash(model_folder)
    settings = Settings(model=str(model_folder), weights_sha256=expected)
    assert load_model(settings).card.weights_hash == expected
    with pytest.raises(BadCheckpoint, match=f"SHA-256 {expected}; HBRIDGE_WEIGHTS_SHA256 expects {'0' * 64}"):
        load_model(settings.model_copy(update={"weights_sha256": "0" * 64}))


def test_hashes_are_kept_from_one_start_to_the_next(model_folder: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(model_folder), cache_dir=tmp_path)
    hashes = {load_model(settings).card.weights_hash for _ in range(2)}
    assert len(hashes) == 1
    assert list((tmp_path / "hashes").iterdir())


def test_random_weights_say_so(model_folder: Path, tmp_path: Path) -> None:
    configs = tmp_path / "tiny"
    configs.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(model_folder / name, configs / name)
    settings = Settings(model=str(configs), load_format="random")
    first, second = (load_model(settings) for _ in range(2))
    assert first.card.load_format == "random"
    assert first.card.weights_hash == second.card.weights_hash != weights_hash(model_folder)
    drawing = Drawing(prompt="a circle", seed=1, num_inference_steps=1)
    images = [draw(each.family, drawing).images[0].tobytes() for each in (first, second)]
    assert images[0] == images[1]
    with pytest.raises(BadCheckpoint, match=r"no \.safetensors"):
        load_model(Settings(model=str(configs)))


def test_reading_is_told_to_who_asks_and_logged_otherwise(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[int, int]] = []
    with caplog.at_level("INFO"):
        load_model(Settings(model=str(model_folder)), lambda *where: told.append(where))
    assert told[-1][0] == told[-1][1]
    assert "loaded" in caplog.messages
    with caplog.at_level("INFO"):
        ProgressLog(0)(50, 200)
        ProgressLog(60)(51, 200)
    logged = [record for record in caplog.records if record.message == "loading"]
    assert [vars(record)["percent"] for record in logged] == [25]


@pytest.mark.parametrize("load_format", ["auto", "random"])
def test_what_is_quantized_says_so_wherever_a_model_is_told_of(
    model_folder: Path,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    *,
    load_format: Literal["auto", "random"],
) -> None:
    settings = Settings(model=str(model_folder), quantization="int8", load_format=load_format)
    loaded = load_model(settings)
    plain = load_model(Settings(model=str(model_folder), load_format=load_format))
    assert stored_bytes(loaded.family.module) < stored_bytes(plain.family.module)
    with local_client(create_app(settings, make_client(loaded))) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        asked = {"prompt": "a circle", "num_inference_steps": 1}
        receipt = web.post("/v1/generate", json=asked).json()["receipt"]
        (card,) = web.get("/v1/models").json()["data"]
        capabilities = web.get("/v1/capabilities").json()
    assert [each["quantization"] for each in (receipt, card, capabilities)] == ["int8"] * 3
    assert "torchao" in receipt["environment"]["versions"].keys() - plain.card.environment.versions.keys()


def test_a_quantization_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnusableQuantization, match=r"capability 8\.9"):
        load_model(Settings(model=str(tmp_path / "none"), quantization="fp8"))


def test_schemes_are_those_of_the_settings_and_of_the_wire() -> None:
    assert get_args(Settings.model_fields["quantization"].annotation) == SCHEMES == get_args(Quantization)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_offloaded_layers_draw_the_same(model_folder: Path, *, quantization: Literal["none", "int8"]) -> None:
    drawing = Drawing(prompt="a circle", seed=1, num_inference_steps=1)
    ways = [
        Settings(model=str(model_folder), quantization=quantization, offload=offload)
        for offload in ("none", "layers")
    ]
    pictures = [draw(load_model(each).family, drawing).images[0].tobytes() for each in ways]
    assert pictures[0] == pictures[1]


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
