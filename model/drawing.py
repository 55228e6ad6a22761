"""A picture to make or to edit: what is asked, planned, in the making, and made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image, composite
from torch import Tensor

from model.errors import BadRequest, TooManyReferences, UnsupportedSize
from model.family import Capabilities, Context, Family, Row, Size
from model.flow import Walk, check_num_steps, check_solver, time_grid
from model.guidance import Branch, Guidance
from model.prompt import Prompt, Task
from model.request import MAX_SEED, Usage, check_task, chosen_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture to make or to edit.

    Attributes:
        prompt: What to draw, or the instruction of an edit.
        images: Pictures to edit, in the order the prompt means them; none to generate.
        mask: Of an edit, in mode "1": True where the first image may change; the rest comes back as it was.
        size: None takes the family's default, or what the family makes of the images.
        n: Pictures from one prefill; picture i uses seed + i.
        seed: None draws one.
        num_inference_steps: None takes the family's default; so do the guidance scales.
    """

    prompt: str
    negative_prompt: str = ""
    images: tuple[Image, ...] = ()
    mask: Image | None = None
    size: Size | None = None
    n: int = 1
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    solver: str = "euler"

    def masked(self, pictures: Sequence[Image]) -> tuple[Image, ...]:
        """Return pictures of this drawing, equal to its first image wherever the mask lets nothing change."""
        if self.mask is None:
            return tuple(pictures)
        return tuple(composite(picture, self.images[0], self.mask) for picture in pictures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A drawing with every default filled in and every limit checked."""

    size: Size
    seeds: tuple[int, ...]
    num_steps: int
    guidance: Guidance
    prompts: dict[Branch, Prompt] = field(default_factory=dict)


def plan_drawing(family: Family, drawing: Drawing) -> Plan:
    """Fill in the family's defaults and refuse what it cannot do.

    Raises:
        BadRequest: As draw.
        MissingCapability: As draw.
    """
    can = family.capabilities
    task: Task = "edit" if drawing.images else "generate"
    check_task(task, can)
    if len(drawing.images) > can.max_references:
        raise TooManyReferences(f"{len(drawing.images)} images, {can.max_references} at most", param="image")
    if drawing.n < 1:
        raise BadRequest(f"n {drawing.n} must be at least 1", param="n")
    size = chosen_size(family, drawing)
    check_size(size, can)
    check_mask(drawing, size)
    steps = drawing.num_inference_steps
    num_steps = can.num_inference_steps if steps is None else steps
    check_num_steps(num_steps)
    check_solver(drawing.solver)
    text = can.edit_guidance_scale if drawing.images else can.guidance_scale
    guidance = Guidance(
        text=text if drawing.guidance_scale is None else drawing.guidance_scale,
        image=(
            can.image_guidance_scale if drawing.image_guidance_scale is None else drawing.image_guidance_scale
        )
        if drawing.images
        else 1.0,
        interval=drawing.guidance_interval or can.guidance_interval,
        rescale=can.guidance_rescale if drawing.guidance_rescale is None else drawing.guidance_rescale,
    )
    branch_prompts = {
        Branch.FULL: Prompt.draw(drawing.prompt, drawing.images),
        Branch.NO_TEXT: Prompt.draw(drawing.negative_prompt, drawing.images),
        Branch.NO_IMAGE: Prompt.draw(drawing.negative_prompt),
    }
    branches = guidance.all_branches(has_references=bool(drawing.images))
    seed = chosen_seed(drawing.seed)
    return Plan(
        size=size,
        seeds=tuple((seed + i) % (MAX_SEED + 1) for i in range(drawing.n)),
        num_steps=num_steps,
        guidance=guidance,
        prompts={branch: branch_prompts[branch] for branch in branches},
    )


def chosen_size(family: Family, drawing: Drawing) -> Size:
    """Return the size that a drawing names, or else what the family makes of its images.

    With a mask that is the first image's own size, wherever the family can make it.
    """
    if drawing.size is not None:
        return drawing.size
    if not drawing.images:
        return family.capabilities.default_size
    if drawing.mask is None:
        return family.output_size(drawing.images)
    own = Size(*drawing.images[0].size)
    return own if can_make(own, family.capabilities) else family.output_size(drawing.images[:1])


def can_make(size: Size, can: Capabilities) -> bool:
    """Say whether a family makes pictures of a size."""
    sides = (size.width, size.height)
    whole = all(side % can.size_step == 0 for side in sides)
    within = can.min_side <= min(sides) and max(sides) <= can.max_side
    return whole and within and size.width * size.height <= can.max_pixels


def check_size(size: Size, can: Capabilities) -> None:
    """Refuse a size that the family cannot make.

    Raises:
        UnsupportedSize: Says which sizes it makes.
    """
    if not can_make(size, can):
        raise UnsupportedSize(
            f"size {size} is not possible; sides are multiples of {can.size_step} from {can.min_side} to "
            f"{can.max_side}, with at most {can.max_pixels} pixels in all",
            param="size",
        )


def check_mask(drawing: Drawing, size: Size) -> None:
    """Refuse a mask that does not lie on the first image, or a size that is not that image's.

    Raises:
        BadRequest: Says what to change.
    """
    if drawing.mask is None:
        return
    if not drawing.images:
        raise BadRequest("a mask needs an image to edit", param="mask")
    image, mask = Size(*drawing.images[0].size), Size(*drawing.mask.size)
    if mask != image:
        raise BadRequest(f"the mask is {mask}, the first image {image}; make them the same", param="mask")
    if size == image:
        return
    if drawing.size is not None:
        raise BadRequest(
            f"with a mask the size is the first image's; leave it out or say {image}", param="size"
        )
    raise UnsupportedSize(
        f"with a mask the picture is as large as the first image, and {image} is not possible; "
        f"bring image and mask to {size}",
        param="image",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Pictures, the seed of each, and the settings that were used."""

    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    size: Size
    guidance: Guidance
    times: tuple[float, ...]
    usage: Usage


class Easel:
    """A drawing in the making: says which rows its next step needs, and takes their velocities.

    Knows no network call and no clock, so that many easels may share a packed call.

    Attributes:
        walks: One for each picture, in step with each other.
        references: Encoded once, shared by all pictures and branches, and never changed.
        usage: What it took so far.
    """

    def __init__(
        self,
        family: Family,
        drawing: Drawing,
        plan: Plan,
        contexts: Mapping[Branch, Context],
        references: Sequence[Tensor] = (),
    ) -> None:
        can = family.capabilities
        latents = [family.noise(plan.size, seed) for seed in plan.seeds]
        times = time_grid(plan.num_steps, *latents[0].shape[1:], name=can.grid)
        self.plan, self.contexts = plan, contexts
        self._drawing = drawing
        self.walks = [Walk(latent_CYX, times, drawing.solver) for latent_CYX in latents]
        self.references = tuple(references)
        self.usage = Usage(
            prompt_tokens=contexts[Branch.FULL].num_tokens,
            prefilled_tokens=sum(context.num_tokens for context in contexts.values()),
            steps=plan.num_steps,
            image_tokens=len(latents) * plan.size.width * plan.size.height // can.size_step**2,
        )
        self._counts_steps = can.guidance_clock == "step"

    @property
    def num_done(self) -> int:
        """Steps taken."""
        return self.walks[0].index

    @property
    def is_done(self) -> bool:
        """Whether the latents have arrived."""
        return self.walks[0].is_done

    @property
    def latents(self) -> list[Tensor]:
        """Where each picture stands: [C, Y, X]."""
        return [walk.latent for walk in self.walks]

    @property
    def arrivals(self) -> list[Tensor]:
        """Where each picture would end if it went straight on: [C, Y, X]; noise before the first step."""
        return [walk.latent if walk.arrival is None else walk.arrival for walk in self.walks]

    def branches(self) -> tuple[Branch, ...]:
        """Return the guidance branches that the coming step needs."""
        walk = self.walks[0]
        clock = walk.index / walk.num_steps if self._counts_steps else walk.time
        return self.plan.guidance.branches(clock, has_references=bool(self.references))

    def rows(self) -> list[Row]:
        """Return the coming step's rows: the branches of the first picture, then of the next."""
        branches = self.branches()
        return [
            Row(
                latent_CYX=walk.latent,
                time=walk.time,
                context=self.contexts[branch],
                references=() if branch is Branch.NO_IMAGE else self.references,
            )
            for walk in self.walks
            for branch in branches
        ]

    def advance(self, velocities: Sequence[Tensor]) -> None:
        """Take the step.

        Args:
            velocities: Of the rows, in their order.
        """
        branches = self.branches()
        assert len(velocities) == len(self.walks) * len(branches), "a velocity for each row"
        self.usage.network_calls += len(velocities)
        for start, walk in zip(range(0, len(velocities), len(branches)), self.walks, strict=True):
            of_one = velocities[start : start + len(branches)]
            walk.advance(self.plan.guidance.combine(dict(zip(branches, of_one, strict=True))))

    def finish(self, pictures: Sequence[Image]) -> Drawn:
        """Sign the decoded pictures."""
        assert self.is_done, "a drawing ends when its latents have arrived"
        return Drawn(
            images=self._drawing.masked(pictures),
            seeds=self.plan.seeds,
            size=self.plan.size,
            guidance=self.plan.guidance,
            times=self.walks[0].times,
            usage=self.usage,
        )
