from pathlib import Path
from random import Random

import torch

from model.prompt import Prompt
from training.lessons import Lesson
from training.questions import SCORED_QUESTIONS
from training.scenes import any_scene
from training.schedule import MicroBatch
from training.understanding import UnderstandingStage
from training.world import render


def test_questions_about_a_picture_are_blind_to_each_other(understanding: UnderstandingStage) -> None:
    together = understanding.lessons.questions(Random(5), 3)
    alone = [Lesson(together.prompt, (branch,)) for branch in together.branches]
    with torch.no_grad():
        (mean,) = understanding.learn([together])
        means = understanding.learn(*([lesson] for lesson in alone))
    weights = torch.tensor([lesson.num_learnt for lesson in alone])
    torch.testing.assert_close(mean, (torch.stack(means) * weights).sum() / weights.sum())


def test_the_loss_names_its_parts_and_reaches_every_weight(understanding: UnderstandingStage) -> None:
    loss, figures = understanding.loss(MicroBatch(size=2))
    parts = {"answers", "description", "meaning", "outcome", "cells", "readings", "places", "pointers"}
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
