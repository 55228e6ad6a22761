import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.errors import BadCheckpoint
from model.tensor_file import map_tensors

WEIGHTS = {"first": torch.arange(6.0).view(2, 3), "second": torch.ones(5, dtype=torch.bfloat16)}


class Code:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def write_safetensors(file: Path) -> None:
    save_file(WEIGHTS, file)


def write_bin(file: Path) -> None:
    torch.save(WEIGHTS, file)


@pytest.mark.parametrize(("name", "write"), [("a.safetensors", write_safetensors), ("a.bin", write_bin)])
def test_both_kinds_of_file_give_the_tensors_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    mapped = map_tensors(tmp_path / name)
    assert mapped.keys() == WEIGHTS.keys()
    assert all(torch.equal(mapped[each], WEIGHTS[each]) for each in WEIGHTS)


@pytest.mark.parametrize(("name", "write"), [("a.safetensors", write_safetensors), ("a.bin", write_bin)])
def test_a_file_is_mapped_as_long_as_a_tensor_of_it_is_held(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    mapped = map_tensors(tmp_path / name)
    assert str(tmp_path / name) in Path("/proc/self/maps").read_text()
    del mapped
    assert str(tmp_path / name) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    "content",
    [{"first": Code()}, Code(), {"first": torch.zeros(2), "deep": {"x": Code()}}],
    ids=["a value", "alone", "deep"],
)
def test_a_file_with_code_in_it_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "a.bin")
    with pytest.raises(BadCheckpoint, match=r"a\.bin is refused: .*posix\.mkdir.*could run code"):
        map_tensors(Path("a.bin"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.zeros(2)], "holds a list"),
        ({"x": torch.zeros(2), "steps": 3, "more": {"y": torch.zeros(2)}}, "no tensors are more, steps"),
    ],
)
def test_a_bin_file_must_hold_tensors_by_name(tmp_path: Path, content: object, told: str) -> None:
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(BadCheckpoint, match=told):
        map_tensors(tmp_path / "a.bin")


@pytest.mark.parametrize("keep", [0, 10, -1, -200])
def test_a_truncated_bin_file_is_named(tmp_path: Path, keep: int) -> None:
    write_bin(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:keep])
    with pytest.raises(BadCheckpoint, match=r"a\.bin is broken"):
        map_tensors(tmp_path / "a.bin")


def test_a_plain_pickle_and_the_form_before_zip_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps(Code()))
    torch.save(WEIGHTS, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    for name in ("a.bin", "b.bin"):
        with pytest.raises(BadCheckpoint, match="no zip archive"):
            map_tensors(tmp_path / name)


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        change(header)
        written = json.dumps(header).encode()
        return len(written).to_bytes(8, "little") + written + data[end:]

    return edit


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda data: b"", "header"),
        (lambda data: data[:5], "header"),
        (lambda data: data[:40], "header"),
        (lambda data: data[:-1], r"(first|second) ends at byte"),
        (lambda data: data + b"more", "not fully covered"),
        (lambda data: b"PK\x03\x04" + data, "header"),
        (lambda data: b"\xff" * 8 + data[8:], "header"),
        (lambda data: data[:8] + b"{" * 20 + data[28:], "JSON"),
        (with_header(lambda header: header["first"].update(dtype="F16")), "first has 24 bytes"),
        (
            with_header(lambda header: header["second"].update(shape=[6])),
            r"second has 10 bytes.*\[6\] of BF16",
        ),
        (
            with_header(lambda header: header["second"].update(data_offsets=[24, 99])),
            "second ends at byte 99",
        ),
        (with_header(lambda header: header["second"].update(dtype="F99")), "second|F99"),
        (with_header(lambda header: header.update(third=3)), "third|invalid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_safetensors_file_is_named_and_so_is_the_tensor(
    tmp_path: Path, edit: Callable[[bytes], bytes], told: str
) -> None:
    file = tmp_path / "a.safetensors"
    write_safetensors(file)
    file.write_bytes(edit(file.read_bytes()))
    with pytest.raises(BadCheckpoint, match=rf"a\.safetensors is broken.*({told})"):
        map_tensors(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.bin"):
        with pytest.raises(BadCheckpoint, match=name):
            map_tensors(tmp_path / name)
