"""Sequence parallelism: packed tokens cut into equal parts, one for each process of a group.

All but attention treats tokens one by one, so each process passes its part through a stack as if there were
nothing else. For attention, where heads divide among the processes, tokens are exchanged for heads: each
process attends over all tokens with some of the heads. Where they do not divide, each attends from its own
tokens over the keys of all.

Shapes: N processes, T packed tokens, P tokens of a part, U packed tokens that lie apart, H query heads, K key
heads, D head dim.

Source: DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv:2309.14509, section 3, for the exchange; Megatron-LM's
context parallelism for gathered keys.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from model.attention import Segments, attend, attend_joined
from model.omnigen2.stack import Stack, StackInputs


@dataclass(frozen=True, slots=True)
class Parts:
    """Packed tokens cut into parts of equal length; what is missing at the end is padding.

    Attributes:
        num_tokens: T.
        group: The processes, in the order of the parts.
    """

    num_tokens: int
    group: dist.ProcessGroup

    @property
    def num(self) -> int:
        """N."""
        return self.group.size()

    @property
    def length(self) -> int:
        """P, the same for all."""
        return -(-self.num_tokens // self.num)

    @property
    def bounds(self) -> tuple[int, int]:
        """Where this process's part begins and ends, without padding."""
        begin = self.group.rank() * self.length
        return min(begin, self.num_tokens), min(begin + self.length, self.num_tokens)

    def padded(self, x: Tensor, length: int) -> Tensor:
        """Return tokens with zeros after them."""
        return pad(x, [0, 0] * (x.ndim - 1) + [0, length - len(x)])

    def own(self, x: Tensor) -> Tensor:
        """Return this process's part [P, ...] of [T, ...]."""
        return self.padded(x[slice(*self.bounds)], self.length)

    def whole(self, x: Tensor) -> Tensor:
        """Return [T, ...] of everybody's part [P, ...]."""
        all_x = x.new_empty(self.num * self.length, *x.shape[1:])
        dist.all_gather(list(torch.split(all_x, self.length)), x.contiguous(), group=self.group)
        return all_x[: self.num_tokens]

    def to_heads(self, x_PHD: Tensor) -> Tensor:
        """Give away other processes' heads for everybody's tokens: [T, H/N, D]."""
        exchanged = self._exchange(torch.unflatten(x_PHD, 1, (self.num, -1)).transpose(0, 1))
        return exchanged.flatten(0, 1)[: self.num_tokens]

    def to_tokens(self, x_THD: Tensor) -> Tensor:
        """Undo to_heads: [P, H, D] of [T, H/N, D]."""
        padded = self.padded(x_THD, self.num * self.length)
        return self._exchange(torch.unflatten(padded, 0, (self.num, -1))).transpose(0, 1).flatten(1, 2)

    def heads(self, x_UKD: Tensor) -> Tensor:
        """Return this process's heads [U, K/N, D] of all."""
        return x_UKD.chunk(self.num, 1)[self.group.rank()].contiguous()

    def _exchange(self, x: Tensor) -> Tensor:
        """Send the n-th of N slices to the n-th process, and return what came, in the order of processes."""
        given = x.contiguous()
        taken = torch.empty_like(given)
        dist.all_to_all_single(taken, given, group=self.group)
        return taken


@dataclass(frozen=True, slots=True)
class SplitSegments:
    """Segments whose tokens are cut into parts.

    Attributes:
        segments: All of them; every token is a query and a key of its segment, which is not causal.
        parts: Who has which tokens.
    """

    segments: Segments
    parts: Parts

    def attend(self, q_PHD: Tensor, k_PKD: Tensor, v_PKD: Tensor) -> Tensor:
        """Attend from this process's part: [P, H, D]."""
        if self._divides(q_PHD, k_PKD):
            return self.parts.to_tokens(attend(*self._to_heads(q_PHD, k_PKD, v_PKD), self.segments))
        seen = self._seen()
        k_SKD, v_SKD = self._gathered(k_PKD, v_PKD, seen)
        if not seen.num_queries:
            return torch.zeros_like(q_PHD)
        mixed = attend(q_PHD[: seen.num_queries], k_SKD, v_SKD, seen.segments)
        return self.parts.padded(mixed, self.parts.length)

    def attend_joined(
        self, q_PHD: Tensor, own: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Attend from this process's part to keys that all have, and then to the tokens' own: [P, H, D].

        Args:
            q_PHD: Queries.
            own: Keys and values of the part.
            before: Keys [U, K, D] and values that lie apart, whole in every process.
        """
        if self._divides(q_PHD, own[0]):
            q_THD, *own_heads = self._to_heads(q_PHD, *own)
            before = self.parts.heads(before[0]), self.parts.heads(before[1])
            mixed = attend_joined(q_THD, (own_heads[0], own_heads[1]), before, self.segments)
            return self.parts.to_tokens(mixed)
        seen = self._seen()
        gathered = self._gathered(*own, seen)
        if not seen.num_queries:
            return torch.zeros_like(q_PHD)
        before = before[0][seen.before], before[1][seen.before]
        mixed = attend_joined(q_PHD[: seen.num_queries], gathered, before, seen.segments)
        return self.parts.padded(mixed, self.parts.length)

    def _divides(self, q_PHD: Tensor, k_PKD: Tensor) -> bool:
        return q_PHD.shape[1] % self.parts.num == 0 and k_PKD.shape[1] % self.parts.num == 0

    def _to_heads(self, q_PHD: Tensor, k_PKD: Tensor, v_PKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exchange all three at once: [T, H/N, D], [T, K/N, D] twice."""
        num = self.parts.num
        each = [torch.unflatten(x, 1, (num, -1)) for x in (q_PHD, k_PKD, v_PKD)]
        together = self.parts.to_heads(torch.cat(each, 2).flatten(1, 2))
        q_THD, k_TKD, v_TKD = torch.split(together, [x.shape[2] for x in each], 1)
        return q_THD, k_TKD, v_TKD

    def _gathered(self, k_PKD: Tensor, v_PKD: Tensor, seen: "Seen") -> tuple[Tensor, Tensor]:
        """Return the keys and values that are seen from this part."""
        k_SKD, v_SKD = self.parts.whole(torch.cat((k_PKD, v_PKD), 1))[seen.own].chunk(2, 1)
        return k_SKD, v_SKD

    def _seen(self) -> "Seen":
        return Seen.of(self.segments, *self.parts.bounds)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen from a stretch of packed tokens.

    Attributes:
        segments: Those that the stretch meets, with its tokens as queries.
        own: Where their own keys are among all; `before` likewise for keys that lie apart.
        num_queries: Tokens of the stretch.
    """

    segments: Segments
    own: slice
    before: slice
    num_queries: int

    @classmethod
    def of(cls, segments: Segments, begin: int, end: int) -> "Seen":
        """Find the segments that tokens from `begin` to `end` are in."""
        assert not segments.causal, "a part does not know which of its keys come after"
        assert segments.q_lengths == segments.own_lengths, "tokens are queries and keys of the same segments"
        ends = [*accumulate(segments.q_lengths, initial=0)]
        before_lengths = segments.before_lengths or (0,) * len(segments.q_lengths)
        before_ends = [*accumulate(before_lengths, initial=0)]
        met = [i for i in range(len(ends) - 1) if max(ends[i], begin) < min(ends[i + 1], end)]
        first, last = (met[0], met[-1] + 1) if met else (0, 0)
        return cls(
            Segments(
                tuple(min(ends[i + 1], end) - max(ends[i], begin) for i in met),
                segments.kv_lengths[first:last],
                backend=segments.backend,
                before_lengths=segments.before_lengths[first:last],
            ),
            slice(ends[first], ends[last]),
            slice(before_ends[first], before_ends[last]),
            end - begin,
        )


class SplitRunner:
    """Computes stacks with all processes of a group, each passing its part of the tokens through.

    All must be given the same, and all get the whole.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def __call__(self, stack: Stack, inputs: StackInputs) -> Tensor:
        """Pass tokens through a stack: [T, h]."""
        parts = Parts(len(inputs.x_Th), self._group)
        return parts.whole(stack(inputs.split(lambda segments: SplitSegments(segments, parts), parts.own)))
