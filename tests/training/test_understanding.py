from pathlib import Path
from random import Random

import pytest
import torch

from model.prompt import Prompt
from training.questions import SCORED_QUESTIONS
from training.schedule import MicroBatch
from training.understanding import (
    Lesson,
    UnderstandingStage,
    any_scene,
    learnt_places,
)
from training.world import is_held_out, render


def lesson_of(stage: UnderstandingStage, kind: str, seed: int) -> Lesson:
    make = {"questions": lambda rng: stage.lessons.questions(rng, 3)}.get(kind)
    return (make or getattr(stage.lessons, kind))(Random(seed))


def test_a_scene_to_learn_from_shows_no_held_out_pair() -> None:
    rng = Random(0)
    for _ in range(100):
        assert not any(map(is_held_out, any_scene(rng).things))


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


def test_questions_about_a_picture_are_blind_to_each_other(understanding: UnderstandingStage) -> None:
    together = lesson_of(understanding, "questions", 5)
    alone = [Lesson(together.prompt, (branch,)) for branch in together.branches]
    with torch.no_grad():
        (mean,) = understanding.learn([together])
        means = understanding.learn(*([lesson] for lesson in alone))
    weights = torch.tensor([lesson.num_learnt for lesson in alone])
    torch.testing.assert_close(mean, (torch.stack(means) * weights).sum() / weights.sum())


def test_the_loss_names_its_parts_and_reaches_every_weight(understanding: UnderstandingStage) -> None:
    loss, figures = understanding.loss(MicroBatch(size=2))
    parts = {"answers", "description", "meaning", "outcome", "cells", "readings", "places"}
    assert figures.keys() == parts | {"feature_size"}
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in understanding.module.parameters())
    understanding.module.zero_grad()


def test_a_look_scores_every_kind_of_question_and_shows_some(
    understanding: UnderstandingStage, tmp_path: Path
) -> None:
    with torch.no_grad():
        figures = understanding.look(tmp_path, 7)
    assert {f"held_out/{kind}" for kind in SCORED_QUESTIONS} < figures.keys()
    assert all(0 <= figure <= 1 for figure in figures.values())
    assert (tmp_path / "sheet-0000007.png").exists()


def test_answers_written_together_equal_each_alone(understanding: UnderstandingStage) -> None:
    prompts = [
        understanding.processor.encode(Prompt.ask(text, (render(any_scene(Random(i))),)))
        for i, text in enumerate(("what?", "how many stars are there?"))
    ]
    with torch.no_grad():
        together = understanding.write(prompts, max_tokens=4)
        assert together == [understanding.write([prompt], max_tokens=4)[0] for prompt in prompts]
