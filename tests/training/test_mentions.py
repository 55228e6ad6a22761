from random import Random

import pytest

from training.canvas import Canvas
from training.edits import EDITS
from training.english import SHAPE_WORDS
from training.mentions import Mention, ends
from training.questions import QUESTIONS, question
from training.world import COLOURS, RADII, SHAPES, Thing, random_scene

STAR = Thing("star", "red", "small", 20, 20, 5)
NOUNS = {words.split()[-1] for each in SHAPE_WORDS.values() for words in each} | {"shape", "thing", "object"}


def test_mentions_are_found_in_their_order_whatever_the_capitals() -> None:
    text = "The star is left of the star."
    twice = [Mention("the star", STAR), Mention("the star", STAR)]
    assert [text[:end] for end in ends(text, twice)] == ["The star", "The star is left of the star"]


def test_words_that_a_sentence_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not found"):
        ends("where is the star?", [Mention("the cross", STAR)])


def is_called(thing: Thing, words: str) -> bool:
    """Say whether the words, the plainest of each kind, are all true of a thing."""
    said = set(words.split())
    others = {*SHAPES, *COLOURS, *RADII} - {thing.shape, thing.colour, thing.size}
    return not said & others


@pytest.mark.parametrize("kind", QUESTIONS)
def test_a_question_mentions_things_of_its_scene(kind: str) -> None:
    rng = Random(1)
    for _ in range(100):
        scene = random_scene(rng, 64, 64)
        query = question(rng, scene, kind)
        if query is None:
            continue
        for mention in query.mentions:
            if mention.thing is None:
                assert query.answer == "no"
            else:
                assert mention.thing in scene.things
                assert is_called(mention.thing, mention.words)
        for end in ends(query.text, query.mentions):
            assert query.text[:end].split()[-1] in NOUNS


@pytest.mark.parametrize("operation", EDITS)
def test_an_instruction_mentions_things_of_the_picture_before(operation: str) -> None:
    rng = Random(2)
    for _ in range(50):
        edit = EDITS[operation](rng, Canvas())
        assert all(mention.thing in edit.before.things for mention in edit.mentions)
        assert len(ends(edit.text, edit.mentions)) == len(edit.mentions)
        if operation not in ("add", "background"):
            gone = set(edit.before.things) - set(edit.kept)
            assert {edit.mentions[0].thing} == gone
