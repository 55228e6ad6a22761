"""The packed calls of every stage: the rows of many jobs in one, and what outlives a call.

Shapes: C latent channels, Y and X latent rows and columns, V words of the vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from PIL.Image import Image
from torch import Tensor

from model.family import Family
from model.images import to_pictures
from service.engine.cost import CostModel, Load, Stage
from service.engine.course import AnswerCourse, DrawingCourse, Inputs
from service.engine.prefix_cache import Ask, PrefixCache
from service.engine.reference_cache import ReferenceCache
from service.engine.ticket import Ticket

REFERENCE_SHARE = 0.125
"""Of what is kept for later, the part for encoded references."""


class Calls:
    """What the family is asked for all jobs of a step; used on the engine's thread only."""

    def __init__(
        self, family: Family, costs: CostModel, *, max_cache_bytes: int, max_call_seconds: float
    ) -> None:
        """Keep nothing yet.

        Args:
            family: What is asked.
            costs: Say how long a call is expected to take.
            max_cache_bytes: Contexts and encoded references kept for later, beside those in use.
            max_call_seconds: A denoising step expected to take longer is split into calls, and between them
                cancelled jobs leave.
        """
        self._family, self._costs, self._max_call_seconds = family, costs, max_call_seconds
        reference_bytes = int(REFERENCE_SHARE * max_cache_bytes)
        self._references = ReferenceCache(family, max_bytes=reference_bytes)
        self._contexts = PrefixCache(family, max_bytes=max_cache_bytes - reference_bytes)
        self._taken = (0, 0)

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        return self._contexts.num_bytes + self._references.num_bytes

    def take_prompts(self) -> tuple[int, int]:
        """Return how many prompts were read since the last time, and how many began as one that was kept."""
        before, self._taken = self._taken, (self._contexts.num_queries, self._contexts.num_hits)
        return self._taken[0] - before[0], self._taken[1] - before[1]

    def release(self, job_id: str) -> None:
        """Let go of a job's contexts; they may stay for others."""
        self._contexts.release(job_id)

    def make(self, stage: Stage, tickets: Sequence[Ticket]) -> Sequence[Any]:
        """Make the calls of a stage; return each job's outcome, None if it left meanwhile."""
        calls: dict[Stage, Callable[[Sequence[Ticket]], Sequence[Any]]] = {
            "prefill": self._prefill,
            "denoise": self._denoise,
            "decode": self._decode,
            "answer": self._answer,
        }
        return calls[stage](tickets)

    def _prefill(self, tickets: Sequence[Ticket]) -> Sequence[Inputs]:
        """Read all prompts and encode all references of all jobs."""
        asks = [
            Ask(job_id=each.job.id, prompt=prompt, tenant=each.job.tenant)
            for each in tickets
            for prompt in each.course.prompts
        ]
        prefilled = iter(self._contexts.prefill(asks))
        images = [(each.job.tenant, image) for each in tickets for image in each.course.images]
        encoded = iter(self._references.encode(images))
        return [
            Inputs(
                prefilled=[next(prefilled) for _ in ticket.course.prompts],
                references=[next(encoded) for _ in ticket.course.images],
            )
            for ticket in tickets
        ]

    def _denoise(self, tickets: Sequence[Ticket]) -> Sequence[list[Tensor] | None]:
        """Return the velocities of each job's rows, or None for a job that left between two calls."""
        wanted = [cast(DrawingCourse, ticket.course).rows() for ticket in tickets]
        rows = [(place, row) for place, of_one in enumerate(wanted) for row in of_one]
        load = sum((ticket.course.load for ticket in tickets), Load())
        num_calls = math.ceil(self._costs.seconds("denoise", load) / self._max_call_seconds) or 1
        at_once = math.ceil(len(rows) / num_calls)
        velocities: list[list[Tensor]] = [[] for _ in tickets]
        for start in range(0, len(rows), at_once):
            going = [each for each in rows[start : start + at_once] if not tickets[each[0]].is_cancelled]
            given = self._family.velocity([row for _, row in going]) if going else []
            for (place, _), velocity in zip(going, given, strict=True):
                velocities[place].append(velocity)
        return [
            given if len(given) == len(of_one) else None
            for given, of_one in zip(velocities, wanted, strict=True)
        ]

    def _decode(self, tickets: Sequence[Ticket]) -> Sequence[list[Image]]:
        """Turn all latents into pictures."""
        latents = [cast(DrawingCourse, ticket.course).latents for ticket in tickets]
        pictures = iter(to_pictures(self._family.decode([each for of_one in latents for each in of_one])))
        return [[next(pictures) for _ in of_one] for of_one in latents]

    def _answer(self, tickets: Sequence[Ticket]) -> Sequence[Tensor]:
        """Return the logits of each answer's next token."""
        return self._family.next_tokens(
            [cast(AnswerCourse, ticket.course).row() for ticket in tickets]
        ).unbind()
