import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoint import load
from model.errors import BadCheckpoint
from model.offload import offload_layers
from model.quantize import foretell_bytes, quantize, stored_bytes
from model.registry import PUBLISHED
from service.doctor.weights import device_bytes, held_bytes, loading_bytes, parts_of, read
from service.settings import Settings


def test_a_whole_checkpoint_is_found(drawing_folder: Path) -> None:
    family, checkpoint, problems = read(drawing_folder)
    assert (checkpoint, problems) == ("found", [])
    assert {weight.device.type for weight in family.module.parameters()} == {"meta"}


def test_a_broken_one_says_everything_that_is_wrong(omnigen2_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(omnigen2_folder, folder)
    (shard,) = (folder / "transformer").glob("*-00002-of-00002.safetensors")
    shard.write_bytes(shard.read_bytes()[:-100])
    for file in (folder / "vae").glob("*.safetensors"):
        file.unlink()
    _, checkpoint, problems = read(folder)
    assert checkpoint == "broken"
    for name in (shard.name, "vae"):
        assert any(name in problem for problem in problems)


def test_configs_alone_are_no_broken_checkpoint() -> None:
    assert read(PUBLISHED / "omnigen2")[1:] == ("configs only", [])


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        read(tmp_path)


@pytest.mark.parametrize("scheme", ["none", "int8"])
def test_weights_take_on_the_device_what_is_foretold(drawing_folder: Path, scheme: str) -> None:
    family = load(drawing_folder)
    foretold = foretell_bytes(family.module, scheme, torch.float32)  # type: ignore[arg-type]
    parts = parts_of(family.module, foretold)
    assert sum(part.weights for part in parts) == sum(each.numel() for each in family.module.parameters())
    quantize(family.module, scheme)  # type: ignore[arg-type]
    assert sum(part.num_bytes for part in parts) == stored_bytes(family.module)
    offload_layers(family.module, "cpu")
    stays = sum(each.nbytes for each in family.module.parameters() if each.device.type != "meta")
    held = device_bytes(family.module, foretold, is_offloaded=True)
    assert stays < held < device_bytes(family.module, foretold, is_offloaded=False)


def test_only_what_changes_weights_reads_them_to_the_host_first() -> None:
    family = read(PUBLISHED / "omnigen2")[0]
    plain = Settings(device="cuda", dtype="bfloat16")
    assert loading_bytes(family, plain) == 0
    for fields in ({"quantization": "int8"}, {"offload": "layers"}, {"device": "cpu"}):
        changed = plain.model_copy(update=fields)
        assert loading_bytes(family, changed) == held_bytes(family, plain)
    made_there = {"quantization": "int8", "load_format": "random"}
    assert loading_bytes(family, plain.model_copy(update=made_there)) == 0
