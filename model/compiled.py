"""Stacks of blocks at few fixed sizes, compiled and on CUDA captured as graphs: no launch waits for Python.

Tokens are padded to the next bucket; the padding is a segment of its own that nobody sees. Where segments
begin, rotations, modulations and the keys of contexts are read from buffers, so one graph serves every layout
that fits. The first call of a stack prepares all buckets; what fits into none is computed as it is, and
counted.

Graphs are captured by hand and not by the compiler, whose graphs would be one for each block, with copies
between them, while here a stack is one launch. All graphs share one pool of memory, as no two run at once.

Shapes: T packed tokens, h width.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from model.bounds import BoundsBackend
from model.omnigen2.stack import Bucket, Stack, StackInputs, Transform, unchanged

GRAIN = 256
"""Buckets are multiples of it: tiles of all kernels are filled."""
FINENESS = 8
"""A bucket is at most an eighth larger than the one before, once that is more than a grain."""
FALLBACKS = ("tokens", "rows", "context", "unprepared")
"""Why a stack is computed as it is: it has too many of one, or could not be prepared."""
MAX_CHARS = 400
"""Of a compiler's words, which may be pages."""
WARM_UPS = 2
"""Calls before a capture: what is made at a first call, such as workspaces, must not be captured."""
KEPT = frozenset({"place", "cos", "sin", "starts", "before_starts", "bridge_cos", "bridge_sin"})
"""Tensors of layouts, which mostly are those of the step before and need not be copied again."""


def token_buckets(most: int) -> tuple[int, ...]:
    """Return bucket sizes from one grain to `most` tokens or a little more."""
    sizes = [GRAIN]
    while sizes[-1] < most:
        sizes.append(sizes[-1] + max(GRAIN, sizes[-1] // FINENESS // GRAIN * GRAIN))
    return tuple(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileConfig:
    """What is prepared.

    Attributes:
        tokens: Sizes of buckets, rising.
        rows: Most rows of a packed call.
        before: Most context positions of all rows together.
        backend: Of the attention, one that reads segments on the device.
        transform: Compiles the function of a block; `compile_blocks` or as it is.
        has_graphs: Whether stacks are captured, which needs CUDA.
    """

    tokens: tuple[int, ...]
    rows: int = 16
    before: int = 8192
    backend: BoundsBackend = "plain"
    transform: Transform = unchanged
    has_graphs: bool = False

    def __post_init__(self) -> None:
        if not self.tokens or any(one >= other for one, other in pairwise(self.tokens)):
            raise ValueError(f"buckets {self.tokens} must rise")


def compile_blocks(backend: str | Callable[..., Any] = "inductor") -> Transform:
    """Compile the functions of blocks by torch.compile, each once for a size and whatever block it gets."""
    known: dict[Callable[..., Tensor], Callable[..., Tensor]] = {}

    def transform(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if function not in known:
            known[function] = torch.compile(function, backend=backend, dynamic=False, fullgraph=True)
        return known[function]

    return transform


def length_of(name: str, bucket: Bucket) -> int:
    """Return how long a bucket's buffer of a name is."""
    if name == "condition":
        return bucket.rows
    if name in ("starts", "before_starts"):
        return bucket.rows + 2
    return bucket.before if name.startswith(("keys.", "values.")) else bucket.tokens


class CompiledRunner:
    """Computes stacks in buckets.

    Attributes:
        problems: Of each stack that cannot be prepared, why; it is computed as it is.
    """

    def __init__(self, config: CompileConfig) -> None:
        self.problems: dict[str, str] = {}
        self._config = config
        self._buckets = [
            Bucket(tokens=each, rows=config.rows, before=config.before) for each in config.tokens
        ]
        self._prepared: dict[tuple[str, int], Callable[[], Tensor]] = {}
        self._buffers: dict[str, Tensor] = {}
        self._filled: dict[str, Tensor] = {}
        self._fallbacks: Counter[str] = Counter()
        self._pool: Any = None

    @property
    def num_prepared(self) -> int:
        """Stacks times buckets that are ready."""
        return len(self._prepared)

    def take_fallbacks(self) -> dict[str, int]:
        """Return how many stacks were computed as they are since the last time, by reason."""
        taken = dict(self._fallbacks)
        self._fallbacks.clear()
        return taken

    def __call__(self, stack: Stack, inputs: StackInputs) -> Tensor:
        """Compute a stack: [T, h]."""
        if not stack.blocks:
            return inputs.x_Th
        if (stack.name, self._buckets[-1].tokens) not in self._prepared and stack.name not in self.problems:
            self._prepare(stack, inputs)
        misfits = [inputs.misfit(bucket) for bucket in self._buckets]
        if stack.name in self.problems or misfits[-1]:
            self._fallbacks["unprepared" if stack.name in self.problems else misfits[-1]] += 1
            return stack(inputs)
        bucket = self._buckets[misfits.index("")]
        self._fill(inputs, bucket)
        out_Th = self._prepared[stack.name, bucket.tokens]()[: len(inputs.x_Th)]
        # The next stack writes where this result lies.
        return out_Th.clone() if self._config.has_graphs else out_Th

    def _prepare(self, stack: Stack, inputs: StackInputs) -> None:
        """Compile and capture all buckets, the largest first: the others fit into its memory."""
        self._make_buffers(inputs)
        try:
            with self._many_compilations():
                for bucket in reversed(self._buckets):
                    self._prepared[stack.name, bucket.tokens] = self._ready(stack, inputs, bucket)
        except Exception as error:  # a compiler may fail in any way, and pictures can do without it
            words = " ".join(str(error).split())
            self.problems[stack.name] = f"{type(error).__name__}: {words[:MAX_CHARS]}"

    def _make_buffers(self, inputs: StackInputs) -> None:
        """Make room for the largest bucket; what stacks have in common they share."""
        largest = self._buckets[-1]
        for name, tensor in inputs.tensors(largest).items():
            if name not in self._buffers:
                shape = length_of(name, largest), *tensor.shape[1:]
                self._buffers[name] = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)

    def _ready(self, stack: Stack, inputs: StackInputs, bucket: Bucket) -> Callable[[], Tensor]:
        """Return what computes a stack over the buffers of a bucket."""
        # Any layout will do, as it is data: a single row without a context.
        self._filled.clear()
        self._buffers["starts"][1:] = bucket.tokens
        for name in ("place", "before_starts"):
            if name in self._buffers:
                self._buffers[name].zero_()
        views = {name: buffer[: length_of(name, bucket)] for name, buffer in self._buffers.items()}
        over = inputs.over(views, bucket, self._config.backend)
        compute = partial(stack, over, self._config.transform)
        compute()
        return self._graph(compute) if self._config.has_graphs else compute

    def _many_compilations(self) -> AbstractContextManager[object]:
        """Let a function be compiled once for each bucket and more; the default ends at 8."""
        if self._config.transform is unchanged:
            return nullcontext()
        patched: AbstractContextManager[object] = torch._dynamo.config.patch(
            recompile_limit=8 + 4 * len(self._buckets)
        )
        return patched

    def _fill(self, inputs: StackInputs, bucket: Bucket) -> None:
        """Copy what a call reads into the buffers; what they hold beyond it is never seen."""
        fresh = {
            name: tensor
            for name, tensor in inputs.tensors(bucket).items()
            if self._filled.get(name) is not tensor
        }
        self._filled |= {name: tensor for name, tensor in fresh.items() if name in KEPT}
        torch._foreach_copy_(
            [self._buffers[name][: len(tensor)] for name, tensor in fresh.items()], list(fresh.values())
        )

    def _graph(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture a computation over buffers."""
        beside: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(beside)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out_Th = compute()

        def replay() -> Tensor:
            graph.replay()
            return out_Th

        return replay
