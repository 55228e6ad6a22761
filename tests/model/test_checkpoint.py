import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import (
    build,
    build_random,
    count_weights,
    load,
    random_hash,
    read_config,
    save,
    weights_hash,
)
from model.errors import BadCheckpoint
from model.family import Row, Size
from model.prompt import Prompt

Change = Callable[[Path], object]


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
        "left over extra in weights-gen.safetensors",
        "missing und.model.norm.weight",
        "srt_tokens in weights-gen.safetensors has shape [1, 2], not [4, 48]",
    ]


GEN, UND, INDEX = "weights-gen.safetensors", "weights-und.safetensors", "model.safetensors.index.json"


def cut(file: str, keep: int) -> Change:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def put(file: str, data: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(data)


def store(file: str, **weights: torch.Tensor | None) -> Change:
    return lambda folder: edit(folder, file, {name.replace("__", "."): w for name, w in weights.items()})


def configure(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def promise(tensor: str, file: str) -> Change:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"][tensor] = file
        (folder / INDEX).write_text(json.dumps(index))

    return change


def pickle_code(folder: Path) -> None:
    for name in (GEN, UND, INDEX):
        (folder / name).unlink()
    torch.save({"srt_tokens": Code()}, folder / "pytorch_model.bin")


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut(GEN, 0), rf"{GEN} is broken"),
        (cut(GEN, 300), rf"{GEN} is broken"),
        (cut(GEN, -100), rf"{GEN} is broken: .*; \S+ ends at byte"),
        (put(GEN, b"PK\x03\x04 this is no safetensors file"), rf"{GEN} is broken"),
        (lambda folder: (folder / GEN).unlink(), rf"missing file {GEN}, in which \S+ should be"),
        (promise("bridge.9.extra", GEN), rf"{GEN} lacks bridge\.9\.extra, which the index promises"),
        (promise("x", "../config.json"), rf"{INDEX}: x must lie in a file beside it"),
        (put(INDEX, b"{"), rf"{INDEX} cannot be read"),
        (put(INDEX, b"{}"), rf"{INDEX} has no weight_map"),
        (store(GEN, srt_tokens=torch.zeros(4, 48, dtype=torch.int8)), rf"srt_tokens in {GEN} is torch.int8"),
        (
            store(GEN, srt_tokens=torch.zeros(4, 48).to(torch.float8_e4m3fn)),
            rf"srt_tokens in {GEN} is .*float8",
        ),
        (
            store(GEN, srt_tokens=torch.zeros(48, 4)),
            rf"srt_tokens in {GEN} has shape \[48, 4\], not \[4, 48\]",
        ),
        (store(GEN, srt_tokens=torch.zeros(4, 48, 1)), rf"srt_tokens in {GEN} has shape \[4, 48, 1\]"),
        (store(GEN, srt_tokens=None), "missing srt_tokens"),
        (store(GEN, extra=torch.zeros(1)), rf"left over extra in {GEN}"),
        (
            store(GEN, und__model__norm__weight=torch.zeros(64)),
            rf"are called und\.model\.norm\.weight: in {GEN}, {UND}",
        ),
        (configure(prefix_layers=1), "understanding has 6 layers"),
        (configure(colour="red"), "config.colour is unknown"),
        (configure(family="poodle"), "config.family 'poodle' must be one of hbridge"),
        (put("config.json", b'{"model_type": "llama"}'), "its model_type is 'llama'"),
        (put("config.json", b"["), r"config\.json cannot be read"),
        (put("config.json", b"[]"), r"config\.json is no JSON object"),
        (put("tokenizer.json", b"{}"), "tokenizer cannot be read"),
        (pickle_code, r"pytorch_model\.bin is refused: it holds more than tensors \(posix\.mkdir\)"),
        (empty, r"config\.json cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_with_its_file_and_tensor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Change, told: str
) -> None:
    monkeypatch.chdir(folder.parent)
    change(folder)
    with pytest.raises(BadCheckpoint, match=told) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert not Path("ran").exists()


def test_a_part_that_is_absent_is_told_in_a_phrase(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / UND).unlink()
    with pytest.raises(BadCheckpoint, match=r": missing und\.\* \(\d+ tensors\)$"):
        load(folder)


def test_bin_files_load_as_safetensors_do(folder: Path, golden_folder: Path) -> None:
    (folder / INDEX).unlink()
    weights = {name: weight for file in (GEN, UND) for name, weight in load_file(folder / file).items()}
    halves = (dict(list(weights.items())[::2]), dict(list(weights.items())[1::2]))
    names = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    weight_map = {}
    for half, name in zip(halves, names, strict=True):
        torch.save(half, folder / name)
        weight_map |= dict.fromkeys(half, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for file in (GEN, UND):
        (folder / file).unlink()
    loaded, expected = (load(each).module.state_dict() for each in (folder, golden_folder))
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_matrix_may_be_stored_as_a_convolution_of_one_pixel(folder: Path, golden_folder: Path) -> None:
    name = "bridge.1.q_linear.weight"
    before = load(golden_folder).module.state_dict()[name]
    edit(folder, GEN, {name: before[..., None, None]})
    assert torch.equal(load(folder).module.state_dict()[name], before)


def test_progress_is_told_up_to_the_end(golden_folder: Path) -> None:
    told: list[tuple[int, int]] = []
    weights = load(golden_folder, on_progress=lambda *where: told.append(where)).module.state_dict()
    assert told[-1] == (told[0][1],) * 2
    assert len(told) == len(weights)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["omnigen2", "hbridge"])
def test_a_published_model_of_which_only_configs_are_here_is_refused(name: str) -> None:
    with pytest.raises(BadCheckpoint, match=f"{name} is a published model"):
        load(name)


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


def test_a_hash_that_is_kept_is_the_same(folder: Path, tmp_path: Path) -> None:
    hashes = {weights_hash(folder), *(weights_hash(folder, kept=tmp_path / "kept") for _ in range(2))}
    assert len(hashes) == 1
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_random_weights_follow_from_the_seed(golden_config: dict[str, Any]) -> None:
    first, second, third = (build_random(golden_config, seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["srt_tokens"], third["srt_tokens"])


def test_random_weights_are_named_by_config_and_seed(golden_config: dict[str, Any]) -> None:
    name = random_hash(golden_config, 0)
    assert name == random_hash(dict(reversed(golden_config.items())), 0)
    assert len({name, random_hash(golden_config, 1), random_hash({**golden_config, "srt_count": 5}, 0)}) == 3


def test_weights_are_counted_part_by_part(golden_config: dict[str, Any]) -> None:
    counts = count_weights(golden_config)
    assert counts.keys() == {"srt_tokens", "und", "gen", "bridge", "srt_proj"}
    assert counts["srt_tokens"] == 4 * 48
    weights = build_random(golden_config).module.parameters()
    assert sum(counts.values()) == sum(weight.numel() for weight in weights)


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


def test_a_folder_of_the_releases_layout_draws(omnigen2_folder: Path) -> None:
    family = load(omnigen2_folder)
    assert family.capabilities.tasks == ("generate", "edit")
    contexts = family.prefill([Prompt.draw("a red circle")])
    noise = family.noise(Size(32, 32), 0)
    (velocity,) = family.velocity([Row(latent_CYX=noise, time=0.5, context=contexts[0])])
    assert velocity.shape == noise.shape
    assert family.decode([noise])[0].shape == (3, 32, 32)


@pytest.mark.parametrize("part", ["transformer", "vae", "mllm"])
def test_a_part_whose_weights_or_config_are_not_there_is_told(
    omnigen2_folder: Path, tmp_path: Path, part: str
) -> None:
    folder = Path(shutil.copytree(omnigen2_folder, tmp_path / "omnigen2"))
    for file in (folder / part).glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(BadCheckpoint, match=rf"no \.safetensors or \.bin file in {part}"):
        load(folder)


def test_any_family_survives_saving(golden_config: dict[str, Any], tmp_path: Path) -> None:
    config = {"family": "omnigen2", "transformer": OMNIGEN2, "mllm": golden_config["understanding"]}
    save(build_random(config), tmp_path)
    assert load(tmp_path).module.state_dict().keys() == build_random(config).module.state_dict().keys()


def test_the_scheduler_of_a_release_is_read_with_its_other_parts(omnigen2_folder: Path) -> None:
    assert read_config(omnigen2_folder)["scheduler"] == {"dynamic_time_shift": True}
    assert load(omnigen2_folder).config.scheduler.dynamic_time_shift
