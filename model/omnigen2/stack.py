"""Blocks that packed tokens pass one after another: what a runner computes as a whole.

A runner may compute a stack in any way that gives the same: as it is, or compiled for a fixed number of
tokens. What it needs for that is here: the inputs as named tensors, and the same inputs over buffers.

Shapes: T packed tokens, M different flow times, h width, e time width, E half of the head dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from model.attention import Segments, Spread
from model.bounds import Bounds, BoundsBackend, padded_starts
from model.omnigen2.blocks import ModulatedBlock, Stream

Transform = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A fixed size that layouts are padded to.

    Attributes:
        tokens: Packed tokens.
        rows: Most segments, and most different flow times.
        before: Most keys that lie apart.
    """

    tokens: int
    rows: int
    before: int


class Side(Protocol):
    """What the blocks of a stack read beside their stream."""

    @property
    def num_before(self) -> int:
        """Keys that lie apart."""
        ...

    def tensors(self, bucket: Bucket) -> dict[str, Tensor]:
        """Name all that is read, with starts of a padded layout."""
        ...

    def over(self, buffers: Mapping[str, Tensor], bucket: Bucket, backend: BoundsBackend) -> "Side":
        """Return the same over buffers by these names, of the bucket's size."""
        ...

    def split(self, spread: Callable[[Segments], Spread], own: Callable[[Tensor], Tensor]) -> "Side":
        """Return the same for one of the processes that tokens are spread over, as StackInputs.split."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInputs:
    """What goes through a stack.

    Attributes:
        x_Th: Tokens.
        condition_Me: silu of the embeddings of all different times.
        stream: Their packing.
        side: What else the blocks read.
    """

    x_Th: Tensor
    condition_Me: Tensor
    stream: Stream
    side: Side | None = None

    def misfit(self, bucket: Bucket) -> str:
        """Say what does not fit into a bucket: tokens, rows or context; nothing when all does."""
        rows = max(len(self.condition_Me), len(self._segments.q_lengths))
        if len(self.x_Th) > bucket.tokens:
            return "tokens"
        if rows > bucket.rows:
            return "rows"
        return "context" if self.side and self.side.num_before > bucket.before else ""

    def tensors(self, bucket: Bucket) -> dict[str, Tensor]:
        """Name all tensors; what a buffer holds beyond them is never seen."""
        return {
            "x": self.x_Th,
            "condition": self.condition_Me,
            "place": self._places(),
            "cos": self.stream.cos_TE,
            "sin": self.stream.sin_TE,
            "starts": padded_starts(self._segments.q_lengths, bucket.rows, bucket.tokens, self.x_Th.device),
            **(self.side.tensors(bucket) if self.side else {}),
        }

    def over(self, buffers: Mapping[str, Tensor], bucket: Bucket, backend: BoundsBackend) -> "StackInputs":
        """Return inputs of the same kind over buffers by these names, of the bucket's size.

        Padding is a segment of its own: it sees itself, and nobody sees it.
        """
        starts, most = buffers["starts"], bucket.tokens
        bounds = Bounds(starts, starts, most, most, backend=backend)
        return StackInputs(
            x_Th=buffers["x"],
            condition_Me=buffers["condition"],
            stream=Stream(bounds, buffers["place"], buffers["cos"], buffers["sin"]),
            side=self.side.over(buffers, bucket, backend) if self.side else None,
        )

    def split(self, spread: Callable[[Segments], Spread], own: Callable[[Tensor], Tensor]) -> "StackInputs":
        """Return what one process passes through, of those that the tokens are spread over.

        Args:
            spread: Makes of the segments what attends with the others' help.
            own: Makes the process's part of what is packed.
        """
        stream = Stream(
            spread(self._segments), own(self._places()), own(self.stream.cos_TE), own(self.stream.sin_TE)
        )
        side = self.side.split(spread, own) if self.side else None
        return StackInputs(x_Th=own(self.x_Th), condition_Me=self.condition_Me, stream=stream, side=side)

    @property
    def _segments(self) -> Segments:
        assert isinstance(self.stream.segments, Segments), "inputs over buffers or parts are whole no more"
        return self.stream.segments

    def _places(self) -> Tensor:
        """Return which flow time each token has."""
        if self.stream.place_T is not None:
            return self.stream.place_T
        num_times = len(self.condition_Me)
        places_M = torch.arange(num_times, device=self.x_Th.device)
        return places_M.repeat_interleave(len(self.x_Th) // num_times)


def unchanged(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Leave a function as it is."""
    return function


def pass_block(block: ModulatedBlock, x_Th: Tensor, condition_Me: Tensor, stream: Stream) -> Tensor:
    """Pass tokens through a block; what a compiler takes as one."""
    passed_Th: Tensor = block(x_Th, condition_Me, stream)
    return passed_Th


class Stack:
    """Blocks in their order.

    Attributes:
        name: Tells the stacks of a network apart.
    """

    def __init__(self, name: str, blocks: Sequence[Any]) -> None:
        self.name = name
        self.blocks = blocks

    def __call__(self, inputs: StackInputs, transform: Transform = unchanged) -> Tensor:
        """Pass tokens through all blocks: [T, h].

        Args:
            inputs: The tokens, and what the blocks share.
            transform: Changes how a block is computed, not what.
        """
        through, x_Th = transform(pass_block), inputs.x_Th
        for block in self.blocks:
            x_Th = through(block, x_Th, inputs.condition_Me, inputs.stream)
        return x_Th


Runner = Callable[[Stack, StackInputs], Tensor]


def run_as_is(stack: Stack, inputs: StackInputs) -> Tensor:
    """Compute a stack block by block, at the size that its inputs have."""
    return stack(inputs)
