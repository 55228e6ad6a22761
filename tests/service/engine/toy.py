"""A family without networks, quick to import in a process of its own; its steps do what the prompt says.

"hold PATH" stays in a step until PATH is there, "hang" for ever, "crash" takes the process along. What is
planned fails at "refuse" and "fault".
"""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import PromptTooLong
from model.family import Block, Capabilities, Depth, Size
from service.engine.job import Environment, LoadedModel, ModelCard

CAPABILITIES = Capabilities(
    family="toy",
    tasks=("generate", "edit", "understand"),
    size_step=16,
    min_side=16,
    max_side=2048,
    max_pixels=2048 * 2048,
    default_size=Size(32, 32),
    max_references=2,
    max_images=2,
    max_prompt_tokens=100,
    solvers=("euler",),
    num_inference_steps=2,
    guidance_scale=1.0,
    edit_guidance_scale=1.0,
    image_guidance_scale=1.0,
)


@dataclass(frozen=True)
class Read:
    """A prompt, prepared and read."""

    words: str
    shade: float
    depth: Depth
    num_tokens: int = 3
    num_image_tokens: int = 0
    num_bytes: int = 8

    @property
    def blocks(self) -> tuple[Block, ...]:
        key = f"{self.words}{self.shade}".encode()
        return (Block(key=hashlib.sha256(key).digest(), num_tokens=self.num_tokens),)


@dataclass
class Written:
    """An answer's cache."""

    num_tokens: int = 3


class Counted:
    """One operation for everything that passes."""

    def __getattr__(self, name: str) -> Any:
        return lambda passed, *rest: len(passed)


class Toy:
    """Straight flows to the shade of what was read."""

    config: Any = None
    capabilities = CAPABILITIES
    end_tokens = frozenset({0})
    flops: Any = Counted()

    def prepare(self, prompt: Any) -> Read:
        words = " ".join(part for turn in prompt.turns for part in turn.parts if isinstance(part, str))
        if words == "refuse":
            raise PromptTooLong("too long", param="prompt")
        if words == "fault":
            raise KeyError("secret words")
        data = b"".join(image.tobytes() for image in prompt.images) + words.encode()
        return Read(words, hashlib.sha256(data).digest()[0] / 255, Depth.ANSWER)

    def prefill(self, prompts: Any, *, prefixes: Any = None) -> list[Read]:
        return [each if isinstance(each, Read) else self.prepare(each) for each in prompts]

    def part(self, context: Read, num_tokens: int, depth: Depth) -> Read:
        return context

    def encode(self, images: Any) -> list[torch.Tensor]:
        return [torch.full((3, image.height // 8, image.width // 8), 0.5) for image in images]

    def noise(self, size: Size, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(3, size.height // 8, size.width // 8, generator=generator)

    def velocity(self, rows: Any) -> list[torch.Tensor]:
        for row in rows:
            obey(row.context.words)
        return [row.context.shade + 0.3 * row.latent_CYX for row in rows]

    def decode(self, latents: Any) -> list[torch.Tensor]:
        return [latent.repeat_interleave(8, 1).repeat_interleave(8, 2) for latent in latents]

    preview = decode

    def begin_answer(self, context: Read) -> tuple[Written, torch.Tensor]:
        return Written(), torch.arange(9.0) * context.shade

    def next_tokens(self, rows: Any) -> torch.Tensor:
        for row in rows:
            row.cache.num_tokens += 1
        return torch.stack([torch.arange(9.0).roll(row.cache.num_tokens) for row in rows])

    def text(self, tokens: Any) -> str:
        return "".join(map(str, tokens))

    def output_size(self, references: Any) -> Size:
        return Size(*references[0].size)


def obey(words: str) -> None:
    """Do what a prompt says."""
    if words == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if words == "hang":
        time.sleep(3600)
    if words.startswith("hold "):
        path = Path(words.removeprefix("hold "))
        path.with_suffix(".held").touch()
        while not path.exists():
            time.sleep(0.005)


def load() -> LoadedModel:
    """Load the toy; its hash is the number of the process that it lives in."""
    card = ModelCard(
        id="toy",
        capabilities=CAPABILITIES,
        weights_hash=str(os.getpid()),
        device="cpu",
        dtype="float32",
        backend="none",
        environment=Environment(hardware="none", num_threads=1, versions={}),
    )
    return LoadedModel(card=card, family=Toy())


def load_for_ever(path: str) -> LoadedModel:
    """Say which process loads, and never come to an end."""
    part = Path(path).with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.rename(path)
    time.sleep(3600)
    raise AssertionError


def fail_to_load() -> LoadedModel:
    """Find nothing that could be loaded."""
    raise PromptTooLong("nothing to load", param="prompt")
