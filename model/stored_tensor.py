"""Which tensors a checkpoint folder holds, under our names, without reading them yet.

One file, several, or shards with an index; or the diffusers layout, where model_index.json stands beside a
folder for each part and each part's names are read as if they began with its folder's.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import BadCheckpoint

RENAMED = (
    (re.compile(r"\bmodel\.language_model\."), "model."),
    (re.compile(r"\bmodel\.visual\."), "visual."),
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: in which file, under which name there, and its shape."""

    file: Path
    name: str
    shape: tuple[int, ...]


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """List a checkpoint's tensors under our names.

    Raises:
        BadCheckpoint: Files are missing or broken, or two tensors have one name; all are listed.
    """
    stored: dict[str, StoredTensor] = {}
    problems: list[str] = []
    for prefix, place in ({f"{part.name}.": part for part in parts(folder)} or {"": folder}).items():
        files, more = _files(place)
        problems += more
        for tensor in (tensor for file in files for tensor in _header(file)):
            name = _ours(prefix + tensor.name)
            problems += [f"two tensors are called {name}"] if name in stored else []
            stored[name] = tensor
    if problems:
        raise BadCheckpoint(f"{folder}: " + "; ".join(sorted(problems)))
    return stored


def read_tensors(
    stored: Mapping[str, StoredTensor], names: Iterable[str], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Read the named tensors."""
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    weights = {}
    for file, wanted in by_file.items():
        with safe_open(file, framework="pt", device=str(device)) as opened:
            for name in wanted:
                weights[name] = opened.get_tensor(stored[name].name).to(dtype)
    return weights


def parts(folder: Path) -> list[Path]:
    """Return the folders of a diffusers layout; none in ours."""
    if not (folder / "model_index.json").is_file():
        return []
    places = {file.parent for file in folder.glob("*/*.safetensors")}
    return sorted(place for place in places if (place / "config.json").is_file())


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


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        files = sorted(folder.glob("*.safetensors"))
        return files, [] if files else ["no safetensors file"]
    named: dict[str, set[str]] = {}
    for index in indices:
        for tensor, file in read_json(index).get("weight_map", {}).items():
            named.setdefault(file, set()).add(tensor)
    problems = [f"missing file {file}" for file in named if not (folder / file).is_file()]
    files = [folder / file for file in sorted(named) if (folder / file).is_file()]
    for file in files:
        lost = named[file.name] - {tensor.name for tensor in _header(file)}
        problems += [f"{file.name} lacks {tensor}, which the index promises" for tensor in lost]
    return files, problems


def _header(file: Path) -> list[StoredTensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            return [StoredTensor(file, name, tuple(opened.get_slice(name).get_shape())) for name in names]
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{file} is broken: {error}") from error


def _ours(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = pattern.sub(replacement, name)
    return name
