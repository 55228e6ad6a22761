"""One request, straight down: the reference that every faster way must equal.

Prefill once per guidance branch, then a packed velocity call per step, then decode. Knows no queue and no
clock; progress is told to a callback, which may raise Cancelled.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL.Image import Image
from torch import Tensor

from model.errors import BadRequest, MissingCapability, TooManyReferences, UnsupportedSize
from model.family import Capabilities, Context, Family, Row, Size, TextRow
from model.flow import Walk, check_num_steps, check_solver, time_grid
from model.guidance import Branch, Guidance
from model.images import to_pictures
from model.prompt import Prompt, Task, Turn

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture to make or to edit.

    Attributes:
        prompt: What to draw, or the instruction of an edit.
        images: Pictures to edit, in the order the prompt means them; none to generate.
        size: None takes the family's default, or the size of the first image.
        n: Pictures from one prefill; picture i uses seed + i.
        seed: None draws one.
        num_inference_steps: None takes the family's default; so do the guidance scales.
    """

    prompt: str
    negative_prompt: str = ""
    images: tuple[Image, ...] = ()
    size: Size | None = None
    n: int = 1
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    solver: str = "euler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question about images, or a conversation that ends in one.

    Attributes:
        turns: Conversation in order; the last turn is the user's.
        temperature: 0 takes the likeliest token.
        stop: Words that end the answer and are not part of it.
    """

    turns: tuple[Turn, ...]
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: Tokens of the full branch's prompt.
        prefilled_tokens: Tokens that went through the understanding side, over all branches.
        image_tokens: Latent patches made, over all pictures.
        steps: Flow steps a picture took.
        network_calls: Rows the generation network computed.
        completion_tokens: Tokens answered.
    """

    prompt_tokens: int = 0
    prefilled_tokens: int = 0
    image_tokens: int = 0
    steps: int = 0
    network_calls: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a request stands: in which stage, and how many of its units are done."""

    stage: str
    done: int
    total: int
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Pictures, the seed of each, and the settings that were used."""

    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    size: Size
    guidance: Guidance
    times: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer; finish_reason is "stop" or "length"."""

    text: str
    finish_reason: str
    seed: int
    usage: Usage


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Listen to nothing."""


@torch.inference_mode()
def draw(family: Family, drawing: Drawing, listener: Listener = ignore) -> Drawn:
    """Make the pictures of one request.

    Raises:
        BadRequest: A field cannot be done as asked; its subclasses say which.
        MissingCapability: The checkpoint does not draw, or does not edit.
        Cancelled: The listener asked to stop.
    """
    plan = plan_drawing(family, drawing)
    listener(Progress(stage="prefill", done=0, total=1))
    contexts = dict(zip(plan.prompts, family.prefill(list(plan.prompts.values())), strict=True))
    usage = Usage(
        prompt_tokens=contexts[Branch.FULL].num_tokens,
        prefilled_tokens=sum(context.num_tokens for context in contexts.values()),
        steps=plan.num_steps,
    )
    starts = [family.start(plan.size, drawing.images, seed) for seed in plan.seeds]
    times = time_grid(plan.num_steps, *starts[0].latent_CYX.shape[1:], name=family.capabilities.grid)
    walks = [Walk(start.latent_CYX, times, drawing.solver) for start in starts]
    references = starts[0].references
    for index in range(plan.num_steps):
        listener(Progress(stage="denoise", done=index, total=plan.num_steps))
        usage.network_calls += step(family, walks, contexts, references, plan.guidance)
    listener(Progress(stage="decode", done=0, total=len(walks)))
    pictures = to_pictures(family.decode([walk.latent for walk in walks]))
    step_pixels = family.capabilities.size_step**2
    usage.image_tokens = len(walks) * plan.size.width * plan.size.height // step_pixels
    return Drawn(
        images=tuple(pictures),
        seeds=plan.seeds,
        size=plan.size,
        guidance=plan.guidance,
        times=times,
        usage=usage,
    )


def step(
    family: Family,
    walks: Sequence[Walk],
    contexts: dict[Branch, Context],
    references: tuple[Tensor, ...],
    guidance: Guidance,
) -> int:
    """Move every walk one step with one packed call; return the rows it took."""
    walk = walks[0]
    clock = walk.time if family.capabilities.guidance_clock == "time" else walk.index / walk.num_steps
    branches = guidance.branches(clock, has_references=bool(references))
    rows = [
        Row(
            latent_CYX=each.latent,
            time=each.time,
            context=contexts[branch],
            references=() if branch is Branch.NO_IMAGE else references,
        )
        for each in walks
        for branch in branches
    ]
    velocities = iter(family.velocity(rows))
    for each in walks:
        each.advance(guidance.combine({branch: next(velocities) for branch in branches}))
    return len(rows)


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
    if task not in can.tasks:
        raise MissingCapability(f"this checkpoint cannot {task}; it can {', '.join(can.tasks)}")
    if len(drawing.images) > can.max_references:
        raise TooManyReferences(f"{len(drawing.images)} images, {can.max_references} at most", param="image")
    if drawing.n < 1:
        raise BadRequest(f"n {drawing.n} must be at least 1", param="n")
    size = drawing.size or (family.output_size(drawing.images) if drawing.images else can.default_size)
    check_size(size, can)
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


def check_size(size: Size, can: Capabilities) -> None:
    """Refuse a size that the family cannot make.

    Raises:
        UnsupportedSize: Says which sizes it makes.
    """
    sides = (size.width, size.height)
    whole = all(side % can.size_step == 0 for side in sides)
    within = can.min_side <= min(sides) and max(sides) <= can.max_side
    if not whole or not within or size.width * size.height > can.max_pixels:
        raise UnsupportedSize(
            f"size {size} is not possible; sides are multiples of {can.size_step} from {can.min_side} to "
            f"{can.max_side}, with at most {can.max_pixels} pixels in all",
            param="size",
        )


def chosen_seed(seed: int | None) -> int:
    """Return the seed asked for, or a new one.

    Raises:
        BadRequest: It is negative or above 2^63 - 1.
    """
    if seed is None:
        return secrets.randbelow(2**31)
    if not 0 <= seed <= MAX_SEED:
        raise BadRequest(f"seed {seed} must be 0 to {MAX_SEED}", param="seed")
    return seed


@torch.inference_mode()
def answer(family: Family, question: Question, listener: Listener = ignore) -> Answered:
    """Answer one question.

    Raises:
        BadRequest: The conversation cannot be read as asked.
        MissingCapability: The checkpoint does not answer.
        Cancelled: The listener asked to stop.
    """
    can = family.capabilities
    if "understand" not in can.tasks:
        raise MissingCapability(f"this checkpoint cannot understand; it can {', '.join(can.tasks)}")
    if question.max_tokens < 1:
        raise BadRequest(f"max_tokens {question.max_tokens} must be at least 1", param="max_tokens")
    prompt = Prompt(task="understand", turns=question.turns)
    if len(prompt.images) > can.max_images:
        raise TooManyReferences(f"{len(prompt.images)} images, {can.max_images} at most", param="images")
    seed = chosen_seed(question.seed)
    generator = torch.Generator().manual_seed(seed)
    listener(Progress(stage="prefill", done=0, total=1))
    (context,) = family.prefill([prompt])
    cache, logits_V = family.begin_answer(context)
    usage = Usage(prompt_tokens=context.num_tokens, prefilled_tokens=context.num_tokens)
    tokens: list[int] = []
    text, reason = "", "length"
    while len(tokens) < question.max_tokens:
        token = choose_token(logits_V, question.temperature, question.top_p, generator)
        if token in family.end_tokens:
            reason = "stop"
            break
        tokens.append(token)
        text = family.text(tokens)
        found = [text.index(word) for word in question.stop if word and word in text]
        if found:
            text, reason = text[: min(found)], "stop"
            break
        listener(Progress(stage="answer", done=len(tokens), total=question.max_tokens, text=text))
        if len(tokens) < question.max_tokens:
            logits_V = family.next_tokens([TextRow(token=token, cache=cache)])[0]
    usage.completion_tokens = len(tokens)
    return Answered(text=text.strip(), finish_reason=reason, seed=seed, usage=usage)


def choose_token(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Take the likeliest token, or draw one from the smallest set of tokens that holds top_p of the mass.

    Raises:
        BadRequest: temperature or top_p is out of range.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (nucleus sampling).
    """
    if temperature < 0:
        raise BadRequest(f"temperature {temperature} must be 0 or more", param="temperature")
    if not 0 < top_p <= 1:
        raise BadRequest(f"top_p {top_p} must be above 0 and at most 1", param="top_p")
    if temperature == 0:
        return int(logits_V.argmax())
    weights_V, order_V = (logits_V.float().cpu() / temperature).softmax(-1).sort(descending=True)
    kept_V = weights_V * (weights_V.cumsum(-1) - weights_V < top_p)
    return int(order_V[torch.multinomial(kept_V, 1, generator=generator)])
