import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import build_random, save
from model.errors import BadCheckpoint
from model.names import Names, PartNames
from model.stored_tensor import StoredTensor, list_tensors, place, read_json, read_tensors
from model.tensor_file import map_tensors
from service.engine.memory import Meter


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 246 MB in shards of 64 MiB."""
    folder = tmp_path_factory.mktemp("large")
    transformer = {"hidden_size": 960, "num_layers": 4, "num_refiner_layers": 1, "num_attention_heads": 8}
    config = {"family": "omnigen2", "transformer": {**transformer, "num_kv_heads": 4}}
    save(build_random(config, dtype=torch.bfloat16), folder, max_shard_bytes=64 * 2**20)
    return folder


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
    told = r"a.safetensors lacks y.*; missing file b.safetensors, in which z should be"
    with pytest.raises(BadCheckpoint, match=told):
        list_tensors(tmp_path)


NAMES = Names(parts={"left": PartNames(renamed=((r"^old$", "new"),))})


def test_published_names_become_ours(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "left.old", "right.old")
    assert set(list_tensors(tmp_path, NAMES)) == {"left.new", "right.old"}
    assert set(list_tensors(tmp_path)) == {"left.old", "right.old"}


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "left.old", "x")
    write(tmp_path / "b.safetensors", "left.new", "x")
    told = r"two tensors are called left\.new: in a\.safetensors, b\.safetensors; two tensors are called x"
    with pytest.raises(BadCheckpoint, match=told):
        list_tensors(tmp_path, NAMES)


def test_without_safetensors_bin_files_count(tmp_path: Path) -> None:
    for number in (1, 2):
        torch.save({f"x{number}": torch.ones(2, 3)}, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    torch.save({"lr": 1}, tmp_path / "training_args.bin")
    assert list(list_tensors(tmp_path)) == ["x1", "x2"]
    index = {"weight_map": {"x2": "pytorch_model-00002-of-00002.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert list(list_tensors(tmp_path)) == ["x2"]
    write(tmp_path / "model.safetensors", "y")
    assert list(list_tensors(tmp_path)) == ["y"]


@pytest.mark.parametrize("weight_map", [None, [], {"x": 3}, {"x": "../a.safetensors"}, {"x": "/etc/passwd"}])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, weight_map: object) -> None:
    write(tmp_path / "a.safetensors", "x")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors\.index\.json"):
        list_tensors(tmp_path)


def test_a_single_file_is_listed_too(tmp_path: Path) -> None:
    write(tmp_path / "bridge.safetensors", "x")
    write(tmp_path / "other.safetensors", "y")
    assert list(list_tensors(tmp_path / "bridge.safetensors")) == ["x"]


def test_every_broken_file_is_told(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(b"junk")
    with pytest.raises(BadCheckpoint, match=r"a\.safetensors is broken.*b\.safetensors is broken"):
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
    with pytest.raises(BadCheckpoint, match=r"no \.safetensors or \.bin file"):
        list_tensors(tmp_path)


CPU = torch.device("cpu")


@pytest.fixture
def many(tmp_path: Path) -> dict[str, StoredTensor]:
    """Forty tensors in three files."""
    for part in range(3):
        save_file(
            {f"x{i}": torch.full((50, 60), float(i)) for i in range(part, 40, 3)},
            tmp_path / f"{part}.safetensors",
        )
    return list_tensors(tmp_path)


def test_tensors_are_read_in_the_order_and_the_dtype_asked(many: dict[str, StoredTensor]) -> None:
    names = ["x7", "x30", "x0", "x8"]
    for dtype in (torch.bfloat16, torch.float32, None):
        weights = read_tensors(many, names, CPU, dtype)
        assert list(weights) == names
        for name, weight in weights.items():
            assert torch.equal(weight, torch.full((50, 60), float(name[1:]), dtype=dtype))


def test_what_is_read_outlives_the_files(many: dict[str, StoredTensor]) -> None:
    weights = read_tensors(many, many, CPU, None)
    for file in {stored.file for stored in many.values()}:
        file.write_bytes(b"")
    assert all(bool((weight == float(name[1:])).all()) for name, weight in weights.items())


def test_progress_goes_up_to_all_there_is(many: dict[str, StoredTensor]) -> None:
    told: list[tuple[int, int]] = []
    names = list(many)[5:25]
    read_tensors(many, names, CPU, torch.bfloat16, lambda done, total: told.append((done, total)))
    assert told == [((i + 1) * 50 * 60 * 4, 20 * 50 * 60 * 4) for i in range(20)]


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_is_placed_without_a_second_copy(
    many: dict[str, StoredTensor], dtype: torch.dtype | None
) -> None:
    view = map_tensors(many["x7"].file)["x7"]
    with Meter() as meter:
        weight = place(view, CPU, dtype)
    assert meter.peak_bytes == weight.nbytes


def test_at_most_one_file_is_mapped_at_a_time(many: dict[str, StoredTensor]) -> None:
    files = {str(stored.file) for stored in many.values()}
    mapped: list[int] = []

    def look(done: int, total: int) -> None:
        maps = Path("/proc/self/maps").read_text()
        mapped.append(sum(file in maps for file in files))

    read_tensors(many, many, CPU, torch.bfloat16, look)
    assert max(mapped) == 1
    look(0, 0)
    assert mapped[-1] == 0


MEASURE = """
import re, sys
from pathlib import Path
import torch
from model.checkpoint import build, load, read_config

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
build(read_config(folder), folder)
torch.zeros(10**6).bfloat16().float()
for dtype in (torch.float32, torch.bfloat16):
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    family = load(folder, dtype=dtype)
    weights = sum(weight.nbytes for weight in family.module.parameters())
    print(kilobytes("VmHWM") * 1024 - before * 1024 - weights)
    del family
"""


@pytest.mark.slow
def test_loading_takes_at_most_a_shard_beside_the_weights(large_folder: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(large_folder)]
    measured = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    shards = [file.stat().st_size for file in large_folder.glob("*.safetensors")]
    assert len(measured) == 2
    assert all(int(extra) <= 1.2 * max(shards) for extra in measured)
    assert sum(shards) > 3 * max(shards)


def test_a_tensor_that_lies_askew_is_straightened(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(6.0).view(2, 3).T}, tmp_path / "pytorch_model.bin")
    weight = read_tensors(list_tensors(tmp_path), ["x"], CPU, None)["x"]
    assert weight.is_contiguous()
    assert weight.tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_what_is_no_json_object_is_a_bad_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        read_json(tmp_path / "config.json")
