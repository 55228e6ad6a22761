"""Requests of random token ids and random pictures: they need no tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.device.plan import Case, Scale
from model.drawing import Drawing, Easel, Plan
from model.family import Context, Family, PreparedPrompt, Row, Size
from model.flow import Walk
from model.guidance import Branch, Guidance
from model.prompt import Prompt
from model.qwen_vl.config import NO_TOKEN, QwenVLConfig
from model.qwen_vl.patches import cut

GUIDANCE = {"generate": Guidance(text=4.0), "edit": Guidance(text=5.0, image=2.0)}
LEAST_TOKEN = 20
Step = Callable[[Sequence[Row]], list[Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture that is asked for."""

    plan: Plan
    prompts: tuple[PreparedPrompt, ...]
    images: tuple[Image.Image, ...]


class Workload:
    """The requests of a case.

    Args:
        family: What they are asked of.
        case: Says task, sizes and batch.
        scale: Says steps and length of prompts.
        seed: Of tokens, pictures and noise.

    Attributes:
        num_steps: From noise to picture.
        requests: One for each picture.
        prompts: Those of all requests and branches.
    """

    def __init__(self, family: Family, case: Case, scale: Scale, seed: int) -> None:
        assert case.model, "a workload is a model's"
        self._family, self._task = family, case.task
        self.num_steps, self._num_tokens = scale.num_steps[case.model], scale.prompt_tokens
        rng = Random(seed)
        self.requests = [self._request(rng, Size(*size)) for size in case.sizes]
        self.prompts = [prompt for each in self.requests for prompt in each.prompts]

    def _request(self, rng: Random, size: Size) -> Request:
        images = (noise_image(rng, size),) if self._task == "edit" else ()
        guidance = GUIDANCE[self._task]
        by_branch = {
            branch: self._prompt(rng, () if branch is Branch.NO_IMAGE else images)
            for branch in guidance.all_branches(has_references=bool(images))
        }
        return Request(
            plan=Plan(
                size=size,
                seeds=(rng.randrange(2**31),),
                num_steps=self.num_steps,
                guidance=guidance,
                prompts=by_branch,
            ),
            prompts=tuple(self._family.prepare(prompt) for prompt in by_branch.values()),
            images=images,
        )

    def _prompt(self, rng: Random, images: tuple[Image.Image, ...]) -> Prompt:
        """Return as many words for every branch, and where the expert sees them the images before them."""
        expert, sees = understanding(self._family.config)
        special = (expert.eos_token_id, expert.image_token_id, expert.vision_start_token_id)
        highest = min(token for token in (*special, expert.vision_end_token_id) if token != NO_TOKEN)
        seen = images if sees and expert.vision is not None else ()
        tokens = [
            token
            for image in seen
            for token in (
                expert.vision_start_token_id,
                *[expert.image_token_id] * cut(image, expert.vision).num_tokens,  # type: ignore[arg-type]
                expert.vision_end_token_id,
            )
        ]
        tokens += [rng.randrange(LEAST_TOKEN, highest) for _ in range(self._num_tokens)]
        return Prompt.of_tokens(tuple(tokens), seen, task=self._task)

    def prefill(self) -> list[Context]:
        """Read all prompts in one packed call."""
        return self._family.prefill(self.prompts)

    def encode(self) -> list[Tensor]:
        """Encode all references."""
        return self._family.encode([image for each in self.requests for image in each.images])

    def contexts(self) -> list[dict[Branch, Context]]:
        """Read all prompts, and return each picture's contexts by branch."""
        read = iter(self.prefill())
        return [{branch: next(read) for branch in each.plan.prompts} for each in self.requests]

    def pictures(self) -> "Pictures":
        """Return the pictures before their first step."""
        references = iter(self.encode())
        return Pictures(
            [
                Easel(
                    self._family,
                    Drawing(prompt=""),
                    each.plan,
                    contexts,
                    [next(references) for _ in each.images],
                )
                for each, contexts in zip(self.requests, self.contexts(), strict=True)
            ]
        )


class Pictures:
    """Pictures that can be drawn again and again from the same noise."""

    def __init__(self, easels: Sequence[Easel]) -> None:
        self.easels = easels
        self._noise = [easel.latents for easel in easels]

    def rows(self) -> list[Row]:
        """Return the rows of one packed step, every picture at a time of its own."""
        return [
            replace(row, time=(index + 1) / (len(self.easels) + 1))
            for index, easel in enumerate(self.easels)
            for row in easel.rows()
        ]

    def draw(
        self, step: Step, *, num_steps: int | None = None, before_step: Callable[[int], None] | None = None
    ) -> list[Tensor]:
        """Walk from noise to the end, or so many steps.

        Args:
            step: Predicts the velocities of rows.
            num_steps: Walks the whole way when left out.
            before_step: Called with the steps taken.

        Returns:
            Where the latents are then.
        """
        for easel, noise in zip(self.easels, self._noise, strict=True):
            easel.walks = [
                Walk(latent_CYX, walk.times, walk.solver)
                for latent_CYX, walk in zip(noise, easel.walks, strict=True)
            ]
        taken = 0
        while not self.easels[0].is_done and taken != num_steps:
            if before_step:
                before_step(taken)
            rows = [easel.rows() for easel in self.easels]
            velocities = iter(step([row for each in rows for row in each]))
            for easel, own in zip(self.easels, rows, strict=True):
                easel.advance([next(velocities) for _ in own])
            taken += 1
        return [latent_CYX for easel in self.easels for latent_CYX in easel.latents]


def understanding(config: Any) -> tuple[QwenVLConfig, bool]:
    """Return a family's understanding expert, and whether it is shown the references."""
    return (config.understanding, True) if hasattr(config, "understanding") else (config.mllm, False)


def noise_image(rng: Random, size: Size) -> Image.Image:
    """Return a picture of random pixels."""
    pixels = np.random.default_rng(rng.randrange(2**31)).integers(0, 256, (size.height, size.width, 3))
    return Image.fromarray(pixels.astype(np.uint8))
