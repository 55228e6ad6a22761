from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from training import drawings
from training.captions import CAPTIONS
from training.cells import cell_labels
from training.drawings import CAPTION_WEIGHTS, EDIT_WEIGHTS, Group, Shelf, encode, fill_shelf, sample
from training.edits import EDITS
from training.world import CELL, NAMES, is_held_out, render

GROUPS = [
    Group(False, 64, 64, 100),
    Group(True, 64, 64, 100),
    Group(False, 96, 64, 100),
    Group(False, 64, 64, 100, odd=1.0, part="odd"),
]


@pytest.mark.parametrize("group", GROUPS)
def test_a_sample_is_a_function_of_its_index_alone(group: Group) -> None:
    forwards = [sample(group, index) for index in range(20)]
    backwards = [sample(group, index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len({each.text for each in forwards}) > 10


@pytest.mark.parametrize("group", GROUPS)
def test_no_sample_shows_a_held_out_pair(group: Group) -> None:
    for index in range(100):
        each = sample(group, index)
        shown = each.after.things + (each.before.things if each.before else ())
        assert not any(map(is_held_out, shown))
        assert (each.before is not None) == group.is_edit
        assert (each.after.width, each.after.height) == (group.width, group.height)


def test_every_kind_is_drawn_and_shares_add_up() -> None:
    assert CAPTION_WEIGHTS.keys() == CAPTIONS.keys()
    assert EDIT_WEIGHTS.keys() == EDITS.keys()
    assert sum(CAPTION_WEIGHTS.values()) == pytest.approx(1)
    assert sum(EDIT_WEIGHTS.values()) == pytest.approx(1)


def test_a_shelf_gives_back_the_latents_as_exactly_as_float16(shelves: list[Shelf], vae: nn.Module) -> None:
    edits = shelves[1]
    for side, given in (("after", edits.after([4, 1])), ("before", edits.before([4, 1]))):
        scenes = [getattr(sample(edits.group, index), side) for index in (4, 1)]
        latents = encode(vae, [render(scene) for scene in scenes])
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, latents, rtol=1e-3, atol=1e-3)


def test_a_shelf_that_is_there_is_left_alone_and_a_short_one_is_filled(
    tmp_path: Path, vae: nn.Module
) -> None:
    path = tmp_path / "generate-64x64-after.npy"
    fill_shelf(tmp_path, Group(False, 64, 64, 2), vae)
    np.save(path, np.load(path) + 1)
    marked = path.read_bytes()
    fill_shelf(tmp_path, Group(False, 64, 64, 2), vae)
    assert path.read_bytes() == marked
    fill_shelf(tmp_path, Group(False, 64, 64, 3), vae)
    assert len(np.load(path)) == 3


def test_a_shelf_of_other_samples_is_not_taken_for_todays(
    tmp_path: Path, vae: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(True, 64, 64, 2)
    fill_shelf(tmp_path, group, vae)
    with pytest.raises(ValueError, match="other samples"):
        fill_shelf(tmp_path, replace(group, odd=1.0), vae)
    with pytest.raises(ValueError, match="other samples"):
        Shelf(tmp_path, replace(group, odd=1.0))
    monkeypatch.setattr(drawings, "DESCRIBED", 0.0)
    fill_shelf(tmp_path, group, vae)
    fill_shelf(tmp_path, replace(group, is_edit=False, part="other"), vae)
    monkeypatch.setattr(drawings, "DESCRIBED", 1.0)
    with pytest.raises(ValueError, match="generate-64x64-other of other samples"):
        fill_shelf(tmp_path, replace(group, is_edit=False, part="other"), vae)


def test_only_edits_have_a_picture_before(shelves: list[Shelf]) -> None:
    with pytest.raises(AssertionError, match="only edits"):
        shelves[0].before([0])


def test_a_shelf_says_what_stands_in_the_cells_of_the_pictures_to_make(shelves: list[Shelf]) -> None:
    for shelf in shelves:
        told = shelf.cells([4, 1])
        labels = cell_labels([sample(shelf.group, index).after for index in (4, 1)], CELL)
        assert told.keys() == NAMES.keys()
        assert all(torch.equal(told[name], labels[name]) for name in told)
