"""Samples for the generation side: what is asked, and the latents of the pictures, computed once.

A sample is a pure function of its index, so a shelf on disk holds latents only; words and scenes are made
again when they are needed.

Shapes: N samples, C latent channels, Y and X latent rows and columns.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from model.images import to_tensor
from training.canvas import Canvas
from training.captions import CAPTIONS, DESCRIBED, describing
from training.cells import cell_labels
from training.edits import EDITS
from training.world import CELL, NAMES, Scene, render

CAPTION_WEIGHTS = {
    "single": 0.2, "colours": 0.1, "two_objects": 0.15, "counting": 0.15, "position": 0.2, "binding": 0.2,
}  # fmt: skip
EDIT_WEIGHTS = {
    "recolour": 0.2, "replace": 0.2, "remove": 0.15, "add": 0.2, "move": 0.15, "background": 0.1,
}  # fmt: skip
ENCODED_AT_ONCE = 64
COMPARED = 64
"""Samples of a group by which those of another time are told from today's."""


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one task and one size.

    Attributes:
        is_edit: Whether there is a picture before.
        odd: Share of scenes in which things may be of shapes or colours without a name: words leave them
            open, and what an instruction does not speak of stays what it is, whatever it is.
        part: Tells groups of one task and one size apart.
    """

    is_edit: bool
    width: int
    height: int
    count: int
    odd: float = 0.0
    part: str = ""

    @property
    def name(self) -> str:
        """Name of its files."""
        task = "edit" if self.is_edit else "generate"
        return "-".join(filter(None, (task, f"{self.width}x{self.height}", self.part)))


@dataclass(frozen=True, slots=True)
class Sample:
    """What is asked, and the scenes after and, for an edit, before."""

    text: str
    after: Scene
    before: Scene | None = None


def sample(group: Group, index: int) -> Sample:
    """Make the sample of an index; none shows a held-out pair."""
    rng = Random(f"{group.name} {index}")
    canvas = Canvas(width=group.width, height=group.height, odd=group.odd)
    if group.is_edit:
        edit = EDITS[_chosen(rng, EDIT_WEIGHTS)](rng, canvas)
        return Sample(edit.text, edit.after, edit.before)
    caption = CAPTIONS[_chosen(rng, CAPTION_WEIGHTS)](rng, canvas)
    if rng.random() < DESCRIBED:
        caption = describing(rng, caption.scene)
    return Sample(caption.text, caption.scene)


def mark_samples(folder: Path, group: Group) -> None:
    """Write down of which samples a folder's files about a group are, or compare with what is written.

    Raises:
        ValueError: They are of others: captions, edits or the group's options have changed since.
    """
    path = folder / f"{group.name}-samples.txt"
    told = [sample(group, index) for index in range(COMPARED)]
    ours = hashlib.sha256(repr(told).encode()).hexdigest()
    if path.exists() and path.read_text() != ours:
        raise ValueError(
            f"{folder} holds {group.name} of other samples; move it away and run stages latents and prefill"
        )
    path.write_text(ours)


def _chosen(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


class Shelf:
    """The latents of one group's samples, float16 on disk, normalised to deviation 1; and what cells hold.

    Raises:
        ValueError: They are of other samples than today's.
    """

    def __init__(self, folder: Path, group: Group) -> None:
        mark_samples(folder, group)
        self.group = group
        self._after = np.load(folder / f"{group.name}-after.npy", mmap_mode="r")
        self._before = np.load(folder / f"{group.name}-before.npy", mmap_mode="r") if group.is_edit else None
        self._cells = np.load(folder / f"{group.name}-cells.npy")

    def after(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures to make: float32 [len(indices), C, Y, X]."""
        return torch.from_numpy(self._after[list(indices)].astype(np.float32))

    def before(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures to edit, likewise."""
        assert self._before is not None, "only edits have a picture before"
        return torch.from_numpy(self._before[list(indices)].astype(np.float32))

    def cells(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return what stands in the cells of the pictures to make, packed, as cell_labels says it."""
        labels_ACN = torch.from_numpy(self._cells[list(indices)].astype(np.int64)).movedim(1, 0)
        return {name: each.flatten() for name, each in zip(NAMES, labels_ACN, strict=True)}


def fill_shelf(folder: Path, group: Group, vae: Any) -> None:
    """Encode a group's pictures once; a shelf that is there already is left alone.

    Raises:
        ValueError: What is there is of other samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark_samples(folder, group)
    _fill_cells(folder / f"{group.name}-cells.npy", group)
    for side in ("after", "before") if group.is_edit else ("after",):
        path = folder / f"{group.name}-{side}.npy"
        if holds(path, group.count):
            continue
        latents: list[NDArray[np.float16]] = []
        starts = range(0, group.count, ENCODED_AT_ONCE)
        for start in track(starts, description=f"encoding {path.stem}"):
            indices = range(start, min(start + ENCODED_AT_ONCE, group.count))
            scenes = [getattr(sample(group, index), side) for index in indices]
            latents.append(encode(vae, [render(scene) for scene in scenes]).numpy().astype(np.float16))
        write_array(path, np.concatenate(latents))


def _fill_cells(path: Path, group: Group) -> None:
    if holds(path, group.count):
        return
    told = [
        cell_labels([sample(group, index).after], CELL)
        for index in track(range(group.count), description=f"telling {group.name}")
    ]
    write_array(path, np.array([[each[name].tolist() for name in NAMES] for each in told], dtype=np.int8))


def holds(path: Path, count: int) -> bool:
    """Say whether a file holds this many rows, or more."""
    return path.exists() and len(np.load(path, mmap_mode="r")) >= count


def write_array(path: Path, values: NDArray[np.generic]) -> None:
    """Write an array as a whole: what has the file's name is complete."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, values)
    partial.rename(path)


@torch.no_grad()
def encode(vae: Any, pictures: Sequence[Any]) -> Tensor:
    """Encode pictures of one size to normalised latents [N, C, Y, X]."""
    pixels = torch.stack([to_tensor(picture) for picture in pictures])
    z = vae.encode(pixels.to(memory_format=torch.channels_last)).latent_dist.mean
    latents_NCYX: Tensor = ((z - vae.config.shift_factor) * vae.config.scaling_factor).contiguous()
    return latents_NCYX
