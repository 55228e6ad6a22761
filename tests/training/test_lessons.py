from random import Random

import pytest

from model.prompt import Prompt
from training.lessons import Lesson, learnt_places, pointed
from training.scenes import any_scene
from training.understanding import UnderstandingStage
from training.world import render


def lesson_of(stage: UnderstandingStage, kind: str, seed: int) -> Lesson:
    make = {"questions": lambda rng: stage.lessons.questions(rng, 3)}.get(kind)
    return (make or getattr(stage.lessons, kind))(Random(seed))


def test_a_question_is_read_in_the_template_that_serving_uses(understanding: UnderstandingStage) -> None:
    lesson, picture = lesson_of(understanding, "questions", 8), render(any_scene(Random(8)))
    for ask, _ in lesson.branches:
        text = understanding.tokenizer.decode(ask).removesuffix("\nassistant\n")
        served = understanding.processor.encode(Prompt.ask(text, (picture,)))
        assert (*lesson.prompt.tokens, *ask) == served.tokens


@pytest.mark.parametrize("kind", ["questions", "description", "meaning", "outcome"])
def test_an_answer_is_learnt_where_it_comes_next(understanding: UnderstandingStage, kind: str) -> None:
    lessons = [lesson_of(understanding, kind, seed) for seed in range(3)]
    places, targets = learnt_places(lessons)
    branches = [branch for lesson in lessons for branch in lesson.branches]
    assert targets == [token for _, answer in branches for token in answer]
    read = [token for ask, answer in branches for token in (*ask, *answer[:-1])]
    coming = [token for ask, answer in branches for token in (*ask[1:], *answer)]
    assert len(read) == len(coming)
    assert [coming[place] for place in places] == targets
    assert len(places) == sum(lesson.num_learnt for lesson in lessons)


def test_pointers_lie_where_the_words_for_a_thing_end(understanding: UnderstandingStage) -> None:
    lessons = [
        lesson_of(understanding, kind, seed)
        for seed in range(5)
        for kind in ("questions", "outcome", "meaning")
    ]
    prompts = [token for lesson in lessons for token in lesson.prompt.tokens]
    branches = [
        token for lesson in lessons for ask, answer in lesson.branches for token in (*ask, *answer[:-1])
    ]
    places, things = pointed(lessons)
    assert len(places) == len(things) == sum(len(lesson.pointers) for lesson in lessons) > 10
    nouns = {"circle", "disc", "square", "triangle", "star", "cross", "sign", "diamond", "rhombus"}
    for place, (scene, thing) in zip(places, things, strict=True):
        words = understanding.tokenizer.decode((prompts + branches)[max(0, place - 2) : place + 1])
        assert words.split()[-1] in nouns | {"shape", "thing", "object"}
        assert thing is None or thing in scene.things
