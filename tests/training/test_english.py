from random import Random

import pytest

from training.english import describe, framed, joined, noun, parse, polished, reference, with_article
from training.wishes import Want, Wish
from training.world import Scene, Thing

RED_CIRCLE = Thing("circle", "red", "large", 16, 32, 8.5)
BLUE_SQUARE = Thing("square", "blue", "small", 48, 32, 5)


def test_descriptions_say_everything_in_reading_order() -> None:
    scene = Scene("green", (BLUE_SQUARE, RED_CIRCLE))
    assert describe(scene) == "2: large red circle left, small blue square right; green background"


def test_a_parsed_wish_says_what_it_demands_and_no_more() -> None:
    wish = Wish(wants=(Want(shape="circle", colour="red"), Want(shape="square")), relations=((0, "left", 1),))
    assert parse(wish) == "2: red circle left of square, square; any background"


@pytest.mark.parametrize(
    ("text", "with_it"), [("orange star", "an orange star"), ("star", "a star"), ("object", "an object")]
)
def test_an_article_suits_its_noun(text: str, with_it: str) -> None:
    assert with_article(text) == with_it


def test_parts_are_joined_as_people_do() -> None:
    assert joined(["a"]) == "a"
    assert joined(["a", "b"]) == "a and b"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_every_attribute_is_named_in_the_usual_order() -> None:
    texts = {noun(Random(i), Want(shape="cross", colour="purple", size="large"), 2) for i in range(40)}
    assert "large purple crosses" in texts
    assert "big violet plus signs" in texts


def test_a_reference_can_mean_one_thing_only() -> None:
    scene = Scene("white", (RED_CIRCLE, Thing("circle", "blue", "small", 40, 40, 5), BLUE_SQUARE))
    said = {reference(Random(i), RED_CIRCLE, scene) for i in range(60)}
    assert said <= {"the " + word for word in _names()}
    assert reference(Random(0), RED_CIRCLE, Scene("white", (RED_CIRCLE, RED_CIRCLE))) is None


def _names() -> set[str]:
    heads, sizes = ("circle", "disc"), ("large", "big")
    return {
        *(f"red {head}" for head in (*heads, "shape", "thing", "object")),
        *(f"{size} {head}" for size in sizes for head in heads),
        *(f"{size} red {head}" for size in sizes for head in heads),
    }


def test_polish_and_frames_keep_the_words() -> None:
    for seed in range(40):
        assert polished(Random(seed), "a star").lower().rstrip(".") == "a star"
        text = framed(Random(seed), "a star", "pink")
        assert "a star" in text.lower()
        assert "pink" in text.lower()
