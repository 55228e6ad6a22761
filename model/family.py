"""The contract of a model family, and the plain data that crosses it.

A family is one kind of unified model. Everything above it (pipeline, engine, service) is written once.

Shapes: C latent channels, Y and X latent rows and columns, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL.Image import Image
from torch import Tensor

from model.prompt import Prompt, Task

if TYPE_CHECKING:  # who reads capabilities computes no attention
    from model.attention import Backend, Heads


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A picture's size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a loaded checkpoint can do; request schemas and /v1/capabilities are made from it.

    Attributes:
        tasks: What it answers to.
        size_step: Sides are multiples of this many pixels.
        min_side: Shortest side in pixels.
        max_side: Longest side in pixels.
        max_pixels: Most pixels in one picture.
        default_size: Used when a request names none.
        max_references: Most images an edit may bring.
        max_images: Most images a question may bring.
        max_prompt_tokens: Longest prompt, template and images included.
        solvers: Names from model.flow.
        num_inference_steps: Default number of flow steps.
        guidance_scale: Default text guidance for generate.
        edit_guidance_scale: Default text guidance for edit.
        image_guidance_scale: Default image guidance for edit; 1 is off.
        guidance_interval: Default interval in which guidance works.
        guidance_rescale: Default share of the way back to the unguided spread; 0 is off.
        guidance_clock: What the interval counts: flow time, or step index over number of steps.
        grid: Name of the time grid in model.flow.
    """

    family: str
    tasks: tuple[Task, ...]
    size_step: int
    min_side: int
    max_side: int
    max_pixels: int
    default_size: Size
    max_references: int
    max_images: int
    max_prompt_tokens: int
    solvers: tuple[str, ...]
    num_inference_steps: int
    guidance_scale: float
    edit_guidance_scale: float
    image_guidance_scale: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    guidance_clock: Literal["time", "step"] = "time"
    grid: str = "omnigen2"


class Context(Protocol):
    """What denoising may read of the understanding side and never changes; may be shared by rows."""

    @property
    def num_tokens(self) -> int:
        """Positions it covers."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that its tensors hold."""
        ...


class Depth(IntEnum):
    """How much of the understanding side a context holds; a deeper one serves wherever a shallower does.

    Attributes:
        PICTURE: What velocity reads.
        BEGINNING: Also what the prefill of a longer prompt to draw reads.
        ANSWER: Everything: what begin_answer and the prefill of any longer prompt read.
    """

    PICTURE = 0
    BEGINNING = 1
    ANSWER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of a prompt, up to a place where prompts that begin alike may part.

    Attributes:
        key: Hash of all that is read from the prompt's first token to the end of this block. Equal keys
            mean equal beginnings, whatever the task.
        num_tokens: Tokens of this block alone.
    """

    key: bytes
    num_tokens: int


class PreparedPrompt(Protocol):
    """A prompt tokenized, and its images cut: what prefill reads, and what prompts are compared by."""

    @property
    def depth(self) -> Depth:
        """What its context will hold."""
        ...

    @property
    def num_image_tokens(self) -> int:
        """Of its tokens, those of images."""
        ...

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All of it in order; a single block when no beginning of it can be shared."""
        ...

    def beginning(self, num_blocks: int) -> "PreparedPrompt":
        """Return its first blocks as a prompt, deep enough for prefill to go on to the whole."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One (job, guidance branch) of a packed velocity call.

    Attributes:
        latent_CYX: The picture in the making.
        time: Flow time in [0, 1]; 0 is pure noise.
        context: From prefill.
        references: Latents [C,Y,X]; empty in a branch that drops them.
    """

    latent_CYX: Tensor
    time: float
    context: Context
    references: tuple[Tensor, ...] = ()


class TextCache(Protocol):
    """The growing keys and values of one answer, begun from a context."""

    @property
    def num_tokens(self) -> int:
        """Positions written so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """One answer of a packed text-decoding call: feed `token` at the end of `cache`."""

    token: int
    cache: TextCache


class Flops(Protocol):
    """What the calls of one loaded family take; each method is named after the call."""

    def prefill(self, prompts: Sequence[PreparedPrompt], prefixes: Sequence[Context | None]) -> int:
        """Count a packed prefill."""
        ...

    def encode(self, latents: Sequence[Tensor]) -> int:
        """Count what it took to encode references to these latents [C, Y, X]."""
        ...

    def velocity(self, rows: Sequence[Row]) -> int:
        """Count a packed step."""
        ...

    def decode(self, latents: Sequence[Tensor]) -> int:
        """Count the decoding of latents [C, Y, X]."""
        ...

    def next_tokens(self, rows: Sequence[TextRow]) -> int:
        """Count a packed call of text decoding, before it is made: it grows the caches."""
        ...


class Family(Protocol):
    """One loaded unified model. Packed calls take rows that differ in every way."""

    config: Any
    capabilities: Capabilities

    def prepare(self, prompt: Prompt) -> PreparedPrompt:
        """Tokenize a prompt and cut its images; needs no device, and refuses what prefill would refuse."""
        ...

    def prefill(
        self, prompts: Sequence[Prompt | PreparedPrompt], *, prefixes: Sequence[Context | None] | None = None
    ) -> list[Context]:
        """Run the understanding side once over each prompt, packed.

        Args:
            prefixes: For each prompt, the context of a beginning of it, after which to go on; None reads
                it all.
        """
        ...

    def part(self, context: Context, num_tokens: int, depth: Depth) -> Context:
        """Return the context of a prompt's first tokens, no deeper than this one; it needs no device.

        Nothing before a token depends on what comes after it, so this equals a prefill of those tokens. Only
        the whole has logits.
        """
        ...

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Turn reference images into latents [C,Y,X], float32, of sizes of their own; nothing is drawn."""
        ...

    def noise(self, size: Size, seed: int) -> Tensor:
        """Draw where the flow of one picture begins, on the CPU from the seed: [C,Y,X], float32."""
        ...

    def velocity(self, rows: Sequence[Row]) -> list[Tensor]:
        """Predict d latent / d time of every row, float32 [C,Y,X] each, in one packed call."""
        ...

    def decode(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents [C,Y,X] into pictures [3,H,W] in [0, 1]."""
        ...

    def preview(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Turn latents [C,Y,X] into rough pictures [3,H,W] in [0, 1], at next to no cost."""
        ...

    def begin_answer(self, context: Context) -> tuple[TextCache, Tensor]:
        """Open an answer on the context of an understand prompt: its cache and its first logits [V]."""
        ...

    def next_tokens(self, rows: Sequence[TextRow]) -> Tensor:
        """Feed one token per row, grow the rows' caches, return the logits [rows, V]."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Turn answer tokens into words."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        ...

    @property
    def flops(self) -> Flops:
        """Count what its calls take."""
        ...

    def output_size(self, references: Sequence[Image]) -> Size:
        """The size that an edit of these images gets when the request names none."""
        ...

    @property
    def heads(self) -> "tuple[Heads, Heads | None]":
        """The attention of the generation side, and that of the understanding side where there is one."""
        ...

    def use_backends(self, generation: "Backend", understanding: "Backend") -> None:
        """Choose how attention is computed on each side."""
        ...

    def use_runner(self, runner: Callable[..., Tensor]) -> None:
        """Choose how the generation side's stacks of blocks are computed."""
        ...
