import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model.shards import plan_shards, write_shards

WEIGHTS = {name: torch.full((4,), float(i)) for i, name in enumerate("abcde")}
SIZES = {name: weight.nbytes for name, weight in WEIGHTS.items()}


def read(names: Sequence[str]) -> Mapping[str, Tensor]:
    return {name: WEIGHTS[name] for name in names}


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_every_tensor_has_one_shard_and_none_is_too_large_that_could_be_smaller(
    given_sizes: list[int], max_bytes: int
) -> None:
    sizes = {str(i): size for i, size in enumerate(given_sizes)}
    shards = plan_shards(sizes, max_bytes)
    assert [name for shard in shards for name in shard] == list(sizes)
    assert all(
        len(shard) == 1 or sum(sizes[name] for name in shard) <= max_bytes for shard in shards if shard
    )


def test_a_small_checkpoint_is_one_file(tmp_path: Path) -> None:
    write_shards(tmp_path, SIZES, read, 1000)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert load_file(tmp_path / "model.safetensors").keys() == WEIGHTS.keys()
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_shards_are_read_one_by_one_and_indexed(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def noted(names: Sequence[str]) -> Mapping[str, Tensor]:
        asked.append(list(names))
        return read(names)

    write_shards(tmp_path, SIZES, noted, 32)
    assert asked == [["a", "b"], ["c", "d"], ["e"]]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(SIZES.values())
    assert index["weight_map"] == {
        name: f"model-{i + 1:05}-of-00003.safetensors" for i, names in enumerate(asked) for name in names
    }
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], WEIGHTS[name])


@pytest.mark.parametrize(("first", "then"), [(32, 1000), (1000, 32), (16, 32)])
def test_nothing_stays_of_what_was_written_before(tmp_path: Path, first: int, then: int) -> None:
    write_shards(tmp_path, SIZES, read, first)
    (tmp_path / "README.md").write_text("stays")
    write_shards(tmp_path, SIZES, read, then)
    (tmp_path / "again").mkdir()
    write_shards(tmp_path / "again", SIZES, read, then)
    names = {file.name for file in tmp_path.iterdir()} - {"README.md", "again"}
    assert names == {file.name for file in (tmp_path / "again").iterdir()}
    assert (tmp_path / "README.md").is_file()
