import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.errors import BadCheckpoint
from model.stored_tensor import list_tensors, read_json, read_tensors


def write(file: Path, *names: str) -> None:
    file.parent.mkdir(exist_ok=True)
    save_file({name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}, file)


def test_all_files_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "x", "y")
    write(tmp_path / "b.safetensors", "z")
    stored = list_tensors(tmp_path)
    assert sorted(stored) == ["x", "y", "z"]
    assert stored["z"].shape == (2, 3)


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "x")
    write(tmp_path / "other.safetensors", "y")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    assert list(list_tensors(tmp_path)) == ["x"]


def test_broken_promises_of_an_index_are_all_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "x")
    promised = {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": promised}))
    with pytest.raises(BadCheckpoint, match=r"a.safetensors lacks y.*; missing file b.safetensors"):
        list_tensors(tmp_path)


def test_newer_names_become_ours(tmp_path: Path) -> None:
    names = (
        "und.model.language_model.norm.weight",
        "und.model.visual.merger.ln_q.weight",
        "und.lm_head.weight",
    )
    write(tmp_path / "a.safetensors", *names)
    ours = {"und.model.norm.weight", "und.visual.merger.ln_q.weight", "und.lm_head.weight"}
    assert set(list_tensors(tmp_path)) == ours


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "x")
    write(tmp_path / "b.safetensors", "x")
    with pytest.raises(BadCheckpoint, match="two tensors are called x"):
        list_tensors(tmp_path)


def test_parts_of_the_diffusers_layout_lend_their_names(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for part in ("transformer", "vae"):
        write(tmp_path / part / "model.safetensors", "x")
        (tmp_path / part / "config.json").write_text("{}")
    assert set(list_tensors(tmp_path)) == {"transformer.x", "vae.x"}


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    write(tmp_path / "a.safetensors", "x")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:keep])
    with pytest.raises(BadCheckpoint, match=r"a\.safetensors is broken"):
        list_tensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no safetensors"):
        list_tensors(tmp_path)


def test_tensors_are_read_in_the_dtype_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "x", "y")
    weights = read_tensors(list_tensors(tmp_path), ["y"], torch.device("cpu"), torch.bfloat16)
    assert torch.equal(weights["y"], torch.ones(2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_what_is_no_json_object_is_a_bad_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        read_json(tmp_path / "config.json")
