"""What a job has to go through, and where it stands: prefill, then steps and decode, or an answer's tokens.

A course says what its next piece of work needs and takes what came of it; packed calls over many courses are
the engine's. Knows no clock, no queue and no other job.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from model.drawing import Drawing, Drawn, Easel, plan_drawing
from model.family import Context, Family, PreparedPrompt, Row, TextRow
from model.images import to_pictures
from model.question import Answered, Question, Reply, read_question
from model.request import Progress
from service.engine.cost import Load, Stage
from service.engine.errors import JobFailed
from service.engine.job import Preview
from service.engine.prefix_cache import Prefilled


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a course begins with: its prompts read, and its images encoded [C, Y, X]."""

    prefilled: Sequence[Prefilled]
    references: Sequence[Tensor] = ()


class Course(Protocol):
    """One job's way through the engine."""

    @property
    def stage(self) -> Stage | None:
        """What it needs next; None when it has its result."""
        ...

    @property
    def load(self) -> Load:
        """How much that is."""
        ...

    @property
    def remaining(self) -> Sequence[tuple[Stage, Load, int]]:
        """All that is still to come: stage, load of one piece, and how many pieces."""
        ...

    @property
    def least(self) -> Sequence[tuple[Stage, Load, int]]:
        """What nothing can spare it: prompts may be kept already, an answer may end with its first token."""
        ...

    @property
    def prompts(self) -> Sequence[PreparedPrompt]:
        """What the understanding side must read for it."""
        ...

    @property
    def images(self) -> Sequence[Image]:
        """What must be encoded for it."""
        ...

    @property
    def progress(self) -> Progress:
        """Where it stands, for whoever waits."""
        ...

    def take(self, outcome: Any) -> None:
        """Take what came of the stage: inputs, velocities, pictures or logits."""
        ...

    def finish(self) -> Drawn | Answered:
        """Return the result."""
        ...


class DrawingCourse:
    """A picture's course: prefill, denoise, decode.

    Attributes:
        plan: The drawing with every default filled in.
        images: Its references.
        load: How much it needs next.
        easel: The drawing in the making; None before its prefill.
    """

    def __init__(self, family: Family, drawing: Drawing) -> None:
        self._family, self._drawing = family, drawing
        self.plan = plan_drawing(family, drawing)
        self.images = drawing.images
        self.prompts = [family.prepare(prompt) for prompt in self.plan.prompts.values()]
        self.easel: Easel | None = None
        self.load = reading(self.prompts)
        self._pictures: Sequence[Image] = ()

    @property
    def stage(self) -> Stage | None:
        """What it needs next."""
        if self.easel is None:
            return "prefill"
        if self._pictures:
            return None
        return "decode" if self.easel.is_done else "denoise"

    @property
    def remaining(self) -> Sequence[tuple[Stage, Load, int]]:
        """All that is still to come."""
        decode: tuple[Stage, Load, int] = ("decode", self._decoding, 1)
        if self.easel is None:
            return [("prefill", self.load, 1), ("denoise", self._expected, self.plan.num_steps), decode]
        left = self.plan.num_steps - self.easel.num_done
        return [("denoise", self.load, left), decode] if left else [decode]

    @property
    def least(self) -> Sequence[tuple[Stage, Load, int]]:
        """Its steps and its pictures."""
        return [each for each in self.remaining if each[0] != "prefill"]

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        if self.easel is None:
            return Progress(stage="prefill", done=0, total=1)
        if self.easel.is_done:
            return Progress(stage="decode", done=0, total=len(self.easel.walks))
        return Progress(stage="denoise", done=self.easel.num_done, total=self.plan.num_steps)

    @property
    def latents(self) -> list[Tensor]:
        """Where its pictures stand."""
        assert self.easel, "latents are there from the prefill on"
        return self.easel.latents

    def rows(self) -> list[Row]:
        """Return the coming step's rows."""
        assert self.easel, "rows are there from the prefill on"
        return self.easel.rows()

    def preview(self, count: int) -> Preview | None:
        """Return a rough look when one of `count` is due after the last step; they are spread evenly."""
        if self.easel is None or self.easel.is_done:
            return None
        due = [self.plan.num_steps * (index + 1) // (count + 1) for index in range(count)]
        done = self.easel.num_done
        if done == 0 or done not in due:
            return None
        images = to_pictures(self._family.preview(self.easel.arrivals))
        return Preview(index=due.index(done), images=self._drawing.masked(images))

    def take(self, outcome: Any) -> None:
        """Take inputs, then velocities, then pictures.

        Raises:
            JobFailed: A velocity is not finite.
        """
        if self.easel is None:
            self._begin(outcome)
        elif self.easel.is_done:
            self._pictures = outcome
        else:
            check_finite(outcome)
            self.easel.advance(outcome)
        self.load = self._next_load(self.easel)

    def _next_load(self, easel: Easel | None) -> Load:
        assert easel, "an easel is there from the prefill on"
        if easel.is_done:
            return self._decoding
        return sum((_load_of(row, self._latents_per_token) for row in easel.rows()), Load())

    def _begin(self, inputs: Inputs) -> None:
        """Take the contexts of the guidance branches and the references, and draw noise."""
        contexts: list[Context] = [each.context for each in inputs.prefilled]
        by_branch = dict(zip(self.plan.prompts, contexts, strict=True))
        self.easel = Easel(self._family, self._drawing, self.plan, by_branch, inputs.references)
        self.easel.usage.prompt_image_tokens = self.prompts[0].num_image_tokens
        self.easel.usage.prefilled_tokens = sum(each.prefilled_tokens for each in inputs.prefilled)
        self.easel.usage.cached_prompt_tokens = sum(each.cached_tokens for each in inputs.prefilled)

    def finish(self) -> Drawn:
        """Return the pictures."""
        assert self.easel, "a course begins before it ends"
        return self.easel.finish(self._pictures)

    @property
    def _picture_tokens(self) -> int:
        return self.plan.size.width * self.plan.size.height // self._family.capabilities.size_step**2

    @property
    def _latents_per_token(self) -> float:
        return prod(self.latents[0].shape[1:]) / self._picture_tokens

    @property
    def _decoding(self) -> Load:
        count = len(self.plan.seeds)
        return Load(rows=count, tokens=count * self._picture_tokens)

    @property
    def _expected(self) -> Load:
        """A step before its latents are there: references are taken to be as large as the picture."""
        count = len(self.plan.seeds)
        tokens = self._picture_tokens * (1 + len(self._drawing.images))
        loads = (
            Load(rows=1, tokens=tokens, pairs=tokens * (tokens + num_tokens(prompt)))
            for prompt in self.prompts
        )
        once = sum(loads, Load())
        return Load(rows=count * once.rows, tokens=count * once.tokens, pairs=count * once.pairs)


class AnswerCourse:
    """An answer's course: prefill, then a token at a time.

    Attributes:
        images: None to encode: those of a question are part of its prompt.
        reply: The answer in the making; None before its prefill.
    """

    images: Sequence[Image] = ()

    def __init__(self, family: Family, question: Question) -> None:
        self._family, self._question = family, question
        self.prompts = [family.prepare(read_question(question, family.capabilities))]
        self.reply: Reply | None = None

    @property
    def stage(self) -> Stage | None:
        """What it needs next."""
        if self.reply is None:
            return "prefill"
        return None if self.reply.is_done else "answer"

    @property
    def load(self) -> Load:
        """How much that is."""
        return reading(self.prompts) if self.reply is None else self._token

    @property
    def remaining(self) -> Sequence[tuple[Stage, Load, int]]:
        """All that is still to come, if the answer is as long as it may be."""
        done = 0 if self.reply is None else len(self.reply.tokens)
        answer: tuple[Stage, Load, int] = ("answer", self._token, self._question.max_tokens - done)
        return [("prefill", self.load, 1), answer] if self.reply is None else [answer]

    @property
    def least(self) -> Sequence[tuple[Stage, Load, int]]:
        """Nothing: the first token may be the last, and is known from a prompt that is kept."""
        return []

    @property
    def progress(self) -> Progress:
        """Where it stands."""
        if self.reply is None:
            return Progress(stage="prefill", done=0, total=1)
        done = len(self.reply.tokens)
        return Progress(stage="answer", done=done, total=self._question.max_tokens, text=self.reply.text)

    def row(self) -> TextRow:
        """Return the token to feed next."""
        assert self.reply, "an answer begins with its prefill"
        return self.reply.row()

    def take(self, outcome: Any) -> None:
        """Take inputs, then logits; choose a token each time.

        Raises:
            JobFailed: A logit is not finite.
        """
        if self.reply is None:
            self._begin(outcome)
        else:
            check_finite([outcome])
            self.reply.advance(outcome)

    def _begin(self, inputs: Inputs) -> None:
        (one,) = inputs.prefilled
        self.reply = Reply(self._family, self._question, one.context)
        self.reply.usage.prompt_image_tokens = self.prompts[0].num_image_tokens
        self.reply.usage.prefilled_tokens = one.prefilled_tokens
        self.reply.usage.cached_prompt_tokens = one.cached_tokens

    def finish(self) -> Answered:
        """Return the answer."""
        assert self.reply, "a course begins before it ends"
        return self.reply.finish()

    @property
    def _token(self) -> Load:
        seen = sum(map(num_tokens, self.prompts)) + (len(self.reply.tokens) if self.reply else 1)
        return Load(rows=1, tokens=1, pairs=seen)


def check_finite(values: Sequence[Tensor]) -> None:
    """Refuse what would spoil a result; a sum is finite only if all its parts are.

    Raises:
        JobFailed: A number is not finite.
    """
    if not torch.stack([value.sum() for value in values]).sum().isfinite():
        raise JobFailed("the network gave a number that is not finite")


def num_tokens(prompt: PreparedPrompt) -> int:
    """Count a prompt's tokens."""
    return sum(block.num_tokens for block in prompt.blocks)


def reading(prompts: Sequence[PreparedPrompt]) -> Load:
    """Return what it takes to read prompts of which nothing is kept yet."""
    lengths = [num_tokens(prompt) for prompt in prompts]
    return Load(rows=len(lengths), tokens=sum(lengths), pairs=sum(length**2 for length in lengths))


def _load_of(row: Row, latents_per_token: float) -> Load:
    areas = (prod(latent_CYX.shape[1:]) for latent_CYX in (row.latent_CYX, *row.references))
    tokens = round(sum(areas) / latents_per_token)
    return Load(rows=1, tokens=tokens, pairs=tokens * (tokens + row.context.num_tokens))
