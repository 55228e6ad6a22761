from random import Random

import pytest

from training.questions import QUESTIONS, SCORED_QUESTIONS, question
from training.world import COLOURS, NAMES, SHAPES, Scene, Thing, random_scene

SCENE = Scene(
    "green", (Thing("circle", "red", "large", 16, 32, 8.5), Thing("square", "blue", "small", 48, 32, 5))
)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_questions_end_as_questions_and_have_an_answer(kind: str) -> None:
    rng = Random(4)
    asked = [query for query in (question(rng, SCENE, kind) for _ in range(20)) if query]
    assert asked
    assert all(query.kind == kind and query.answer and query.text[-1] in "?." for query in asked)


def test_yes_and_no_are_balanced() -> None:
    rng = Random(5)
    for kind in ("exists", "relation"):
        answers = [query.answer for query in (question(rng, SCENE, kind) for _ in range(400)) if query]
        assert 0.35 < answers.count("yes") / len(answers) < 0.65


def test_the_same_question_about_the_same_scene_has_one_answer() -> None:
    rng = Random(6)
    for kind in SCORED_QUESTIONS:
        asked = [query for query in (question(rng, SCENE, kind) for _ in range(200)) if query]
        answers = {query.text.lower(): query.answer for query in asked}
        assert all(answers[query.text.lower()] == query.answer for query in asked)


def test_a_question_that_cannot_point_at_one_thing_is_not_asked() -> None:
    twin = Thing("star", "red", "small", 16, 16, 5)
    scene = Scene("white", (twin, Thing("star", "red", "small", 48, 48, 5)))
    for kind in ("colour", "shape", "size", "position", "relation"):
        assert all(question(Random(seed), scene, kind) is None for seed in range(20))


def test_counts_are_those_of_the_scene() -> None:
    rng = Random(7)
    for _ in range(50):
        scene = random_scene(rng, 64, 64)
        query = question(rng, scene, "count")
        assert query is not None
        assert 0 <= int(query.answer) <= len(scene.things)


@pytest.mark.parametrize("kind", SCORED_QUESTIONS)
def test_nothing_without_a_name_is_spoken_of(kind: str) -> None:
    rng = Random(8)
    odd = (
        Thing("circle~star", "red", "large", 16, 16, 8),
        Thing("square", "#804020", "small", 48, 16, 5),
        Thing("cross", "blue", "small", 16, 48, 5),
    )
    for _ in range(100):
        query = question(rng, Scene("white", odd), kind)
        if query is not None:
            assert not {"~", "#"} & set(query.text + query.answer)


def test_a_count_by_what_something_has_no_name_for_is_not_asked() -> None:
    scene = Scene("white", (Thing("circle~star", "#804020", "large", 16, 16, 8),))
    asked = [query for query in (question(Random(i), scene, "count") for i in range(60)) if query]
    assert asked
    assert not any(word in query.text for query in asked for word in (*SHAPES[:3], *COLOURS))


@pytest.mark.parametrize("kind", ["shape", "colour"])
def test_what_has_no_name_is_given_every_name(kind: str) -> None:
    rng = Random(9)
    odd = Thing("circle~star", "#804020", "large", 16, 16, 8)
    asked = [query for query in (question(rng, Scene("white", (odd,)), kind) for _ in range(200)) if query]
    assert {query.answer for query in asked} == set(NAMES[kind])


def test_what_training_never_shows_it_does_not_deny_either() -> None:
    rng = Random(10)
    plain = Scene("white", (Thing("circle", "red", "large", 16, 16, 8.5),))
    asked = [query.text for query in (question(rng, plain, "exists") for _ in range(600)) if query]
    assert not any("purple circle" in text or "violet circle" in text for text in asked)
    held_out = Scene("white", (Thing("circle", "purple", "large", 16, 16, 8.5),))
    asked = [query for query in (question(rng, held_out, "exists") for _ in range(600)) if query]
    assert {"yes", "no"} == {query.answer for query in asked}
