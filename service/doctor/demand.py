"""What requests take, foretold without memory for them: the engine's meter on a model without weights.

The family's calls run as they would in a step, on tensors that have shapes and no content. So a laptop can
tell of a full-size model what a GPU will need.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from model.drawing import Drawing, Easel, plan_drawing
from model.family import Context, Family, Size
from model.guidance import Branch
from model.prompt import Prompt, Task
from service.engine.cost import Stage
from service.engine.memory import MARGIN, Meter, held_and_needed

WORDS = "a red circle above a blue square, on a wooden table beside a window"
"""Of a usual length."""


class FusedAttention(TorchFunctionMode):
    """Stands for attention kernels that hold no scores, as processors and GPUs have them."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Give what attention gives, and run everything else."""
        if function is scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request takes.

    Attributes:
        peaks: Bytes that each stage has alive at its peak with one picture, with the engine's margin.
        more: What each further picture adds to them; nothing is read or encoded for it.
        flops: Of each stage with one picture; of one step.
        context_bytes: What is kept of its prompts.
        num_steps: How many steps there are.
    """

    peaks: Mapping[Stage, int]
    more: Mapping[Stage, int]
    flops: Mapping[Stage, int]
    context_bytes: int
    num_steps: int

    def bytes_for(self, count: int) -> int:
        """Return what a number of pictures needs beside the weights, as the engine reckons."""
        _, needed = held_and_needed(
            {stage: peak + (count - 1) * self.more[stage] for stage, peak in self.peaks.items()}
        )
        return needed

    def fitting(self, num_bytes: int) -> int:
        """Return how many pictures fit at once."""
        held, needed = held_and_needed(self.peaks)
        if needed > num_bytes:
            return 0
        room = {stage: num_bytes - held - peak for stage, peak in self.peaks.items() if self.more[stage]}
        return 1 + min(left // self.more[stage] for stage, left in room.items())


def drawing_of(task: Task, size: Size, num_pictures: int = 1) -> Drawing:
    """Return a request as most are; an edit has one image, as large as the picture."""
    images = (blank(size),) if task == "edit" else ()
    return Drawing(prompt=WORDS, images=images, size=size, n=num_pictures, seed=0)


def blank(size: Size) -> Image.Image:
    """Return a picture of a size."""
    return Image.new("RGB", (size.width, size.height))


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a drawing is made from, however many pictures it has.

    Attributes:
        flops: What reading it took.
    """

    contexts: Mapping[Branch, Context]
    references: Sequence[Tensor]
    flops: int

    def easel(self, family: Family, drawing: Drawing) -> Easel:
        """Return the drawing before its first step."""
        return Easel(family, drawing, plan_drawing(family, drawing), self.contexts, self.references)


def begin(family: Family, drawing: Drawing) -> Begun:
    """Read a drawing's prompts and images, as the engine does."""
    prompts = plan_drawing(family, drawing).prompts
    prepared = [family.prepare(prompt) for prompt in prompts.values()]
    contexts = family.prefill(prepared)
    references = family.encode(drawing.images) if drawing.images else []
    flops = family.flops.prefill(prepared, [None] * len(prepared)) + family.flops.encode(references)
    return Begun(contexts=dict(zip(prompts, contexts, strict=True)), references=references, flops=flops)


@torch.inference_mode()
def foretell(family: Family, task: Task, size: Size) -> Demand:
    """Foretell what requests of a kind take.

    Args:
        family: On the meta device, in the type of its weights.

    Raises:
        MissingCapability: The checkpoint cannot do it.
        BadRequest: The checkpoint does not make it.
    """
    with Meter() as prefill, FusedAttention():
        begun = begin(family, drawing_of(task, size))
    one, two = (begun.easel(family, drawing_of(task, size, count)) for count in (1, 2))
    peaks: dict[Stage, int] = {"prefill": int(MARGIN * prefill.peak_bytes), **_peaks(family, one)}
    flops: dict[Stage, int] = {
        "prefill": begun.flops,
        "denoise": family.flops.velocity(one.rows()),
        "decode": family.flops.decode(one.latents),
    }
    peaks_of_two: dict[Stage, int] = {**peaks, **_peaks(family, two)}
    return Demand(
        peaks=peaks,
        more={stage: peaks_of_two[stage] - peak for stage, peak in peaks.items()},
        flops=flops,
        context_bytes=sum(context.num_bytes for context in begun.contexts.values()),
        num_steps=one.plan.num_steps,
    )


def _peaks(family: Family, easel: Easel) -> dict[Stage, int]:
    with Meter() as denoise, FusedAttention():
        family.velocity(easel.rows())
    with Meter() as decode, FusedAttention():
        family.decode(easel.latents)
    return {
        "denoise": int(MARGIN * denoise.peak_bytes),
        "decode": int(MARGIN * decode.peak_bytes),
    }


@torch.inference_mode()
def context_sizes(family: Family, size: Size) -> tuple[int, int, int]:
    """Foretell bytes for each prompt token, tokens of an image, and bytes of an image and its latents."""
    (context,) = family.prefill([Prompt.draw(WORDS)])
    token_bytes = round(context.num_bytes / context.num_tokens)
    if "edit" not in family.capabilities.tasks:
        return token_bytes, 0, 0
    num_tokens = family.prepare(Prompt.draw(WORDS, (blank(size),))).num_image_tokens
    latents = sum(latent_CYX.nbytes for latent_CYX in family.encode([blank(size)]))
    return token_bytes, num_tokens, num_tokens * token_bytes + latents
