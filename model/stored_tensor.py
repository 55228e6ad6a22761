"""Which tensors a checkpoint folder holds, under our names, without reading them yet; and reading them.

One file, several, or shards with an index; or the diffusers layout, where model_index.json stands beside a
folder for each part and each part's names are read as if they began with its folder's.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import BadCheckpoint
from model.names import Names
from model.tensor_file import map_tensors

KINDS = ((".safetensors", "*.safetensors"), (".bin", "*pytorch_model*.bin"))
"""Suffixes of files, and patterns of those without an index; the first kind that is there counts alone."""
NUM_READERS = 4

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are read and with those that there are."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: in which file, under which name there, its shape and its type."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """How much of the file it takes."""
        return prod(self.shape) * self.dtype.itemsize


def list_tensors(place: Path, names: Names | None = None, *, prefix: str = "") -> dict[str, StoredTensor]:
    """List a checkpoint's tensors under our names.

    Args:
        place: A folder, or a single file.
        names: How published names become ours; None leaves them as they are.
        prefix: What goes before all names, the published ones.

    Raises:
        BadCheckpoint: Files are missing or broken, or two tensors have one name; all are listed.
    """
    stored: dict[str, StoredTensor] = {}
    problems: list[str] = []
    for part, folder in ({f"{each.name}.": each for each in parts(place)} or {"": place}).items():
        files, more = _files(folder)
        problems += more
        for file, promised in files.items():
            try:
                tensors = list_file(file)
            except BadCheckpoint as error:
                problems.append(str(error))
                continue
            lost = promised - {tensor.name for tensor in tensors}
            problems += [f"{file.name} lacks {tensor}, which the index promises" for tensor in lost]
            for tensor in tensors:
                published = prefix + part + tensor.name
                name = names.ours(published) if names else published
                if name in stored:
                    problems.append(
                        f"two tensors are called {name}: in {stored[name].file.name}, {file.name}"
                    )
                stored[name] = tensor
    if problems:
        raise BadCheckpoint(f"{place}: " + "; ".join(sorted(problems)))
    return stored


def list_file(file: Path) -> list[StoredTensor]:
    """List one file's tensors under their names there.

    Raises:
        BadCheckpoint: It is broken.
    """
    mapped = map_tensors(file).items()
    return [StoredTensor(file, name, tuple(tensor.shape), tensor.dtype) for name, tensor in mapped]


def read_tensors(
    stored: Mapping[str, StoredTensor],
    names: Iterable[str],
    device: torch.device,
    dtype: torch.dtype | None,
    on_progress: OnProgress | None = None,
) -> dict[str, Tensor]:
    """Read the named tensors straight to where they stay, several at a time.

    Files are mapped one after another, and no tensor is in memory twice but for those that are being read:
    beside the weights themselves this takes at most one file.

    Args:
        dtype: To convert to; None leaves each as it is stored.
        on_progress: Called on this thread after every tensor.
    """
    wanted = list(names)
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(stored[name].file, []).append(name)
    total = sum(stored[name].num_bytes for name in wanted)
    weights: dict[str, Tensor] = {}
    done = 0
    with ThreadPoolExecutor(NUM_READERS, "reader") as readers:
        for file, own in by_file.items():
            mapped = map_tensors(file)
            views = [mapped.pop(stored[name].name) for name in own]
            for name, weight in zip(
                own, readers.map(partial(place, device=device, dtype=dtype), views), strict=True
            ):
                weights[name] = weight
                done += stored[name].num_bytes
                if on_progress:
                    on_progress(done, total)
            del mapped, views
    return {name: weights[name] for name in wanted}


def place(view: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """Copy a mapped tensor to where it stays; another type is made over there, from what is stored.

    Not even on the CPU does a map stay: the file may change, and its memory would look as if it were free.
    """
    if device.type != "cpu":
        return view.to(device).to(dtype or view.dtype).contiguous()
    return torch.empty(view.shape, dtype=dtype or view.dtype).copy_(view)


def parts(folder: Path) -> list[Path]:
    """Return the folders of a diffusers layout that have a config; none in ours."""
    if (folder / "config.json").is_file() or not (folder / "model_index.json").is_file():
        return []
    return sorted(file.parent for file in folder.glob("*/config.json"))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadCheckpoint: It is not there, or is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{file} is no JSON object")
    return content


def _files(place: Path) -> tuple[dict[Path, set[str]], list[str]]:
    """Return a folder's weight files with what an index promises of each, and what is wrong."""
    if place.is_file():
        return {place: set()}, []
    for suffix, pattern in KINDS:
        if indices := sorted(place.glob(f"*{suffix}.index.json")):
            return _indexed(place, indices)
        if files := sorted(place.glob(pattern)):
            return {file: set() for file in files}, []
    return {}, [f"no .safetensors or .bin file in {place.name}"]


def _indexed(folder: Path, indices: Iterable[Path]) -> tuple[dict[Path, set[str]], list[str]]:
    promised: dict[Path, set[str]] = {}
    for index in indices:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise BadCheckpoint(f"{index} has no weight_map from tensors to files")
        for tensor, name in weight_map.items():
            if Path(name).name != name:
                raise BadCheckpoint(f"{index}: {tensor} must lie in a file beside it, not in {name!r}")
            promised.setdefault(folder / name, set()).add(tensor)
    missing = [file for file in promised if not file.is_file()]
    problems = [f"missing file {file.name}, in which {min(promised.pop(file))} should be" for file in missing]
    return dict(sorted(promised.items())), problems
