"""Requests of the shapes world in the model's words, and how one is done without an engine."""

from dataclasses import replace
from random import Random
from typing import Any

from model.drawing import Drawing, Drawn
from model.family import Capabilities, Family, Size
from model.pipeline import answer, draw
from model.prompt import Turn
from model.question import Answered, Question
from training.canvas import Canvas
from training.captions import CAPTIONS
from training.edits import EDITS
from training.evaluation import question_cases
from training.questions import SCORED_QUESTIONS
from training.world import render

Work = Drawing | Question
MAX_TOKENS = 12


def perform(family: Family, work: Work) -> Drawn | Answered:
    """Do one request straight down."""
    return answer(family, work) if isinstance(work, Question) else draw(family, work)


class Workload:
    """Draws requests that fit a model, each with other words than the ones before.

    Attributes:
        rng: Where all randomness comes from.
    """

    def __init__(self, can: Capabilities, seed: int = 0) -> None:
        self.rng = Random(seed)
        side = can.default_size.width
        longer = min(can.max_side, can.max_pixels // side, 3 * side // 2) // can.size_step * can.size_step
        self._wide, self._tall = Size(longer, side), Size(side, longer)
        self._num_drawn = 0

    def generation(self, **fields: Any) -> Drawing:
        """Draw a caption; fields of Drawing may be set."""
        caption = self.rng.choice(list(CAPTIONS.values()))(self.rng, Canvas())
        return replace(Drawing(prompt=self._new(caption.text), seed=self._seed()), **fields)

    def edit(self, **fields: Any) -> Drawing:
        """Draw a scene and an instruction; fields of Drawing may be set."""
        edit = self.rng.choice(list(EDITS.values()))(self.rng, Canvas())
        images = (render(edit.before),)
        return replace(Drawing(prompt=self._new(edit.text), images=images, seed=self._seed()), **fields)

    def question(self) -> Question:
        """Draw a scene and a question about it."""
        kind = self.rng.choice(SCORED_QUESTIONS)
        ((scene, query),) = question_cases(self.rng, kind, 1, Canvas())
        turn = Turn("user", (render(scene), self._new(query.text)))
        return Question(turns=(turn,), max_tokens=MAX_TOKENS)

    def mixed(self) -> list[Work]:
        """Draw eight requests that differ in task, size, number of steps, guidance and solver."""
        return [
            self.generation(),
            self.generation(size=self._wide, num_inference_steps=12, guidance_scale=5.0),
            self.generation(size=self._tall, num_inference_steps=16, solver="dpmpp_2m"),
            self.generation(guidance_scale=1.0),
            self.edit(),
            self.edit(num_inference_steps=10, image_guidance_scale=1.5),
            self.question(),
            self.question(),
        ]

    def _new(self, text: str) -> str:
        """Return words that nobody has read before."""
        self._num_drawn += 1
        return f"{text} {self._num_drawn}"

    def _seed(self) -> int:
        return self.rng.randrange(2**31)
