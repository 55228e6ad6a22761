"""What drawings and questions have in common: seeds, progress and what they took."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from model.errors import BadRequest, MissingCapability
from model.family import Capabilities
from model.prompt import Task

MAX_SEED = 2**63 - 1


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: Tokens of the full branch's prompt.
        prompt_image_tokens: Of these, its images'.
        prefilled_tokens: Tokens that went through the understanding side, over all branches.
        cached_prompt_tokens: Tokens that did not have to, because they were read before.
        image_tokens: Latent patches made, over all pictures.
        steps: Flow steps a picture took.
        network_calls: Rows the generation network computed.
        completion_tokens: Tokens answered.
    """

    prompt_tokens: int = 0
    prompt_image_tokens: int = 0
    prefilled_tokens: int = 0
    cached_prompt_tokens: int = 0
    image_tokens: int = 0
    steps: int = 0
    network_calls: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a request stands: in which stage, and how many of its units are done.

    Attributes:
        text: Of an answer, so far.
        eta_seconds: Until its end, as far as whoever runs it can tell.
    """

    stage: str
    done: int
    total: int
    text: str = ""
    eta_seconds: float | None = None


Listener = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Listen to nothing."""


def check_task(task: Task, can: Capabilities) -> None:
    """Refuse a task that the checkpoint does not do.

    Raises:
        MissingCapability: Says which it does.
    """
    if task not in can.tasks:
        does = f"it can {', '.join(can.tasks)}" if can.tasks else "it lacks the parts for any task"
        raise MissingCapability(f"this checkpoint cannot {task}; {does}")


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
