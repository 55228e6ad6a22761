from random import Random

import pytest

from training.detector import detect
from training.words import CAPTIONS, EDITS, QUESTIONS, Canvas, Want, Wish, describe, parse, question
from training.world import Scene, Thing, is_held_out, relations, render

CANVASES = [Canvas(), Canvas(held_out=True), Canvas(width=96, height=64, lattice=False)]
RED_CIRCLE = Thing("circle", "red", "large", 16, 32, 8.5)
BLUE_SQUARE = Thing("square", "blue", "small", 48, 32, 5)


@pytest.mark.parametrize("kind", CAPTIONS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_a_caption_is_true_of_its_scene(kind: str, canvas: Canvas) -> None:
    rng = Random(0)
    for _ in range(25):
        caption = CAPTIONS[kind](rng, canvas)
        assert caption.wish.is_met(caption.scene)
        assert any(map(is_held_out, caption.scene.things)) == canvas.held_out


@pytest.mark.parametrize("kind", CAPTIONS)
def test_the_detector_sees_a_caption_fulfilled_in_the_rendering(kind: str) -> None:
    rng = Random(1)
    for _ in range(10):
        caption = CAPTIONS[kind](rng, Canvas())
        assert caption.wish.is_met(detect(render(caption.scene)))


@pytest.mark.parametrize("operation", EDITS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_an_edit_is_met_afterwards_and_not_before(operation: str, canvas: Canvas) -> None:
    rng = Random(2)
    for _ in range(25):
        edit = EDITS[operation](rng, canvas)
        assert edit.is_met(edit.after)
        assert not edit.is_met(edit.before)
        assert any(map(is_held_out, edit.before.things)) == canvas.held_out


def test_an_edit_that_moves_what_was_to_stay_is_not_met() -> None:
    edit = next(e for e in (EDITS["recolour"](Random(i), Canvas()) for i in range(50)) if e.kept)
    moved = [Thing(t.shape, t.colour, t.size, t.x + 9, t.y, t.radius) for t in edit.after.things]
    assert not edit.is_met(Scene(edit.after.background, tuple(moved)))


def test_a_wish_is_strict_about_spare_and_missing_things() -> None:
    wish = Wish(wants=(Want(shape="circle"),))
    assert wish.is_met(Scene("white", (RED_CIRCLE,)))
    assert not wish.is_met(Scene("white", (RED_CIRCLE, BLUE_SQUARE)))
    assert not wish.is_met(Scene("white", ()))


def test_a_wish_binds_colours_relations_and_background() -> None:
    scene = Scene("green", (RED_CIRCLE, BLUE_SQUARE))
    wants = (Want(shape="circle", colour="red"), Want(shape="square", colour="blue", size="small"))
    assert Wish(wants=wants, relations=((0, "left", 1),), background="green").is_met(scene)
    assert not Wish(wants=wants, relations=((0, "right", 1),)).is_met(scene)
    assert not Wish(wants=wants, background="pink").is_met(scene)
    assert not Wish(wants=(Want(shape="circle", colour="blue"), Want(shape="square", colour="red"))).is_met(
        scene
    )


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_name_things_that_are_there_and_answers_are_short(kind: str) -> None:
    rng = Random(4)
    scene = Scene("green", (RED_CIRCLE, BLUE_SQUARE))
    asked = [query for query in (question(rng, scene, kind) for _ in range(20)) if query]
    assert asked
    assert all(query.answer and query.text[-1] in "?." for query in asked)


def test_yes_and_no_are_balanced() -> None:
    rng = Random(5)
    scene = Scene("green", (RED_CIRCLE, BLUE_SQUARE))
    for kind in ("exists", "relation"):
        answers = [query.answer for query in (question(rng, scene, kind) for _ in range(400)) if query]
        assert 0.35 < answers.count("yes") / len(answers) < 0.65


def test_descriptions_say_everything_in_reading_order() -> None:
    scene = Scene("green", (BLUE_SQUARE, RED_CIRCLE))
    assert describe(scene) == "2: large red circle left, small blue square right; green background"
    assert relations(RED_CIRCLE, BLUE_SQUARE) == {"left"}


def test_a_parsed_wish_says_what_it_demands_and_no_more() -> None:
    wish = Wish(wants=(Want(shape="circle", colour="red"), Want(shape="square")), relations=((0, "left", 1),))
    assert parse(wish) == "2: red circle left of square, square; any background"
