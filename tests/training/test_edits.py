from dataclasses import replace
from random import Random

import pytest

from training.canvas import Canvas
from training.edits import EDITS, Target
from training.world import BETWEEN, Scene, Thing, is_held_out

CANVASES = [Canvas(), Canvas(odd=1.0), Canvas(held_out=True), Canvas(width=96, height=64, lattice=False)]


@pytest.mark.parametrize("operation", EDITS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_an_edit_is_met_afterwards_and_not_before(operation: str, canvas: Canvas) -> None:
    rng = Random(2)
    for _ in range(25):
        edit = EDITS[operation](rng, canvas)
        assert edit.operation == operation
        assert edit.is_met(edit.after)
        assert not edit.is_met(edit.before)
        assert any(map(is_held_out, edit.before.things)) == canvas.held_out


@pytest.mark.parametrize("operation", EDITS)
def test_what_is_kept_stands_in_both_pictures(operation: str) -> None:
    rng = Random(3)
    for _ in range(25):
        edit = EDITS[operation](rng, Canvas())
        assert set(edit.kept) <= set(edit.before.things) & set(edit.after.things)
        assert edit.keeps(edit.before)


@pytest.mark.parametrize("operation", EDITS)
def test_no_edit_makes_a_held_out_pair(operation: str) -> None:
    rng = Random(4)
    for _ in range(50):
        assert not any(map(is_held_out, EDITS[operation](rng, Canvas()).after.things))


def test_an_edit_that_moves_what_was_to_stay_is_not_met() -> None:
    edit = next(e for e in (EDITS["recolour"](Random(i), Canvas()) for i in range(50)) if e.kept)
    moved = tuple(replace(thing, x=thing.x + 9) for thing in edit.after.things)
    assert not edit.is_met(replace(edit.after, things=moved))
    assert edit.is_met(replace(edit.after, things=moved), slack=10)


def test_a_target_is_exchanged_for_what_comes_in_its_place() -> None:
    old, rest = Thing("star", "red", "small", 20, 20, 5), Thing("cross", "blue", "small", 44, 44, 5)
    target = Target(Scene("white", (old, rest)), 0, "the star")
    new = replace(old, colour="green")
    assert target.thing == old
    assert target.becomes(new).things == (rest, new)
    assert target.becomes().things == (rest,)


@pytest.mark.parametrize("operation", EDITS)
def test_an_instruction_speaks_only_of_what_has_a_name(operation: str) -> None:
    rng, canvas = Random(5), Canvas(odd=1.0)
    for _ in range(50):
        text = EDITS[operation](rng, canvas).text
        assert not {"#", BETWEEN} & set(text), text
