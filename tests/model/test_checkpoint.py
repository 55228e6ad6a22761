import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import build, build_random, load, save, weights_hash
from model.errors import BadCheckpoint


@pytest.fixture
def folder(golden_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_folder, tmp_path / "checkpoint"))


def edit(folder: Path, file: str, change: dict[str, torch.Tensor | None]) -> None:
    weights: dict[str, Any] = load_file(folder / file) | change
    save_file({name: weight for name, weight in weights.items() if weight is not None}, folder / file)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)


def test_a_folder_of_the_specification_loads(golden_folder: Path) -> None:
    family = load(golden_folder)
    stored = load_file(golden_folder / "weights-und.safetensors") | load_file(
        golden_folder / "weights-gen.safetensors"
    )
    ours = family.module.state_dict()
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[name], stored[name]) for name in ours)
    assert not any(tensor.is_meta for tensor in (*family.module.parameters(), *family.module.buffers()))


def test_what_training_alone_needs_may_be_absent(folder: Path) -> None:
    edit(folder, "weights-gen.safetensors", {"srt_proj.weight": None, "srt_proj.bias": None})
    assert "srt_proj.weight" not in load(folder).module.state_dict()


def test_half_of_an_optional_part_is_refused(folder: Path) -> None:
    edit(folder, "weights-gen.safetensors", {"srt_proj.bias": None})
    with pytest.raises(BadCheckpoint, match=r"missing srt_proj\.bias"):
        load(folder)


def test_every_difference_is_listed_in_order(folder: Path) -> None:
    change = {"srt_tokens": torch.zeros(1, 2), "und.model.norm.weight": None, "extra": torch.zeros(1)}
    edit(folder, "weights-gen.safetensors", {"srt_tokens": change["srt_tokens"], "extra": change["extra"]})
    edit(folder, "weights-und.safetensors", {"und.model.norm.weight": None})
    with pytest.raises(BadCheckpoint) as error:
        load(folder)
    problems = str(error.value).partition(": ")[2].split("; ")
    assert problems == [
        "left over extra",
        "missing und.model.norm.weight",
        "srt_tokens has shape [1, 2], not [4, 48]",
    ]


def test_a_corrupt_file_is_named(folder: Path) -> None:
    file = folder / "weights-gen.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadCheckpoint, match=r"weights-gen\.safetensors is broken"):
        load(folder)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json cannot be read"):
        load(tmp_path)


def test_an_unknown_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PoodlePipeline"}')
    with pytest.raises(BadCheckpoint, match="PoodlePipeline"):
        load(tmp_path)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 400_000])
def test_what_is_saved_loads_as_it_was(golden_folder: Path, tmp_path: Path, max_shard_bytes: int) -> None:
    family = load(golden_folder)
    save(family, tmp_path, max_shard_bytes=max_shard_bytes)
    again = load(tmp_path)
    assert again.config == family.config
    for name, weight in family.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], weight)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 1) == (max_shard_bytes < 10**9)
    assert all(shard.stat().st_size < max_shard_bytes + 20_000 for shard in shards)


def test_weights_can_be_held_and_stored_in_bfloat16(golden_folder: Path, tmp_path: Path) -> None:
    family = load(golden_folder, dtype=torch.bfloat16)
    assert {weight.dtype for weight in family.module.state_dict().values()} == {torch.bfloat16}
    save(family, tmp_path)
    assert {weight.dtype for weight in load(tmp_path).module.state_dict().values()} == {torch.float32}


def test_the_tokenizer_travels_along(tiny_folder: Path, tmp_path: Path) -> None:
    save(load(tiny_folder), tmp_path, tokenizer_from=tiny_folder)
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_folder / "tokenizer.json").read_bytes()


def test_a_changed_weight_changes_the_hash(folder: Path, golden_folder: Path) -> None:
    assert weights_hash(folder) == weights_hash(golden_folder)
    edit(folder, "weights-gen.safetensors", {"srt_tokens": torch.zeros(4, 48)})
    assert weights_hash(folder) != weights_hash(golden_folder)


def test_random_weights_follow_from_the_seed(golden_config: dict[str, Any]) -> None:
    first, second, third = (build_random(golden_config, seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["srt_tokens"], third["srt_tokens"])


def test_building_takes_no_memory_for_weights(golden_config: dict[str, Any]) -> None:
    assert all(weight.is_meta for weight in build(json.loads(json.dumps(golden_config))).module.parameters())


OMNIGEN2 = {
    "hidden_size": 24, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1,
    "multiple_of": 8, "axes_dim_rope": [4, 4, 4], "text_feat_dim": 64, "in_channels": 4,
}  # fmt: skip


def test_a_folder_for_each_part_loads_too(golden_config: dict[str, Any], tmp_path: Path) -> None:
    config = {"family": "omnigen2", "transformer": OMNIGEN2, "mllm": golden_config["understanding"]}
    weights = build_random(config).module.state_dict()
    (tmp_path / "model_index.json").write_text('{"_class_name": "OmniGen2Pipeline"}')
    for part in ("transformer", "mllm"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config[part]))
        own = {name.removeprefix(f"{part}."): w for name, w in weights.items() if name.startswith(f"{part}.")}
        save_file(own, tmp_path / part / "model.safetensors")
    loaded = load(tmp_path).module.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_any_family_survives_saving(golden_config: dict[str, Any], tmp_path: Path) -> None:
    config = {"family": "omnigen2", "transformer": OMNIGEN2, "mllm": golden_config["understanding"]}
    save(build_random(config), tmp_path)
    assert load(tmp_path).module.state_dict().keys() == build_random(config).module.state_dict().keys()
