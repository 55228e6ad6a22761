"""The ways to run a packed step: as it is, captured as graphs, or compiled and captured."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.device.networks import Network, Unavailable
from benchmarks.device.plan import Mode
from benchmarks.device.workload import Step
from model.attention import Backend
from model.backend_choice import problem
from model.bounds import BoundsBackend
from model.compiled import GRAIN, CompileConfig, CompiledRunner, compile_blocks, token_buckets
from model.family import Family, Row
from model.omnigen2.stack import Stack, StackInputs, Transform, run_as_is, unchanged

LEAST_ROWS = 16


class NotPrepared(Exception):
    """A stack of blocks could not be compiled or captured; says why."""


def make_step(network: Network, mode: Mode, rows: Sequence[Row]) -> Step:
    """Return a network's packed step in this mode, ready for rows of these sizes.

    Raises:
        NotPrepared: It cannot be compiled or captured.
        Unavailable: There is no such mode on this device.
    """
    family, latent_CYX = network.family, rows[0].latent_CYX
    family.use_runner(run_as_is)
    if mode == "eager":
        return family.velocity
    if latent_CYX.device.type != "cuda":
        raise Unavailable(f"{mode} steps need a CUDA device, not {latent_CYX.device.type}")
    if why := problem("triton", latent_CYX.device, torch.bfloat16):
        raise Unavailable(f"{mode} steps need our attention kernel: {why}")
    runner = prepare(
        family,
        rows,
        backend=on_bounds(network.backend),
        transform=compile_blocks() if mode == "compiled" else unchanged,
        has_graphs=True,
    )
    if runner.problems:
        family.use_runner(run_as_is)
        raise NotPrepared("; ".join(f"{stack}: {why}" for stack, why in runner.problems.items()))
    return family.velocity


def on_bounds(backend: Backend) -> BoundsBackend:
    """Return the kernel at prepared sizes that goes with an attention backend."""
    return "varlen" if backend == "varlen" else "triton"


def prepare(
    family: Family, rows: Sequence[Row], *, backend: BoundsBackend, transform: Transform, has_graphs: bool
) -> CompiledRunner:
    """Let a family compute its stacks in those of the served buckets that these rows fall into.

    Args:
        family: Is changed.
        rows: Of the steps to come.
        backend: Of the attention.
        transform: Compiles blocks, or not.
        has_graphs: Whether to capture them.
    """
    sizes = stack_sizes(family, rows)
    served = token_buckets(max(sizes))
    contexts = sum(row.context.num_tokens for row in rows)
    config = CompileConfig(
        tokens=tuple(sorted({next(each for each in served if each >= size) for size in sizes})),
        rows=max(LEAST_ROWS, len(rows)),
        before=-(-contexts // GRAIN) * GRAIN,
        backend=backend,
        transform=transform,
        has_graphs=has_graphs,
    )
    runner = CompiledRunner(config)
    family.use_runner(runner)
    family.velocity(rows)
    return runner


def stack_sizes(family: Family, rows: Sequence[Row]) -> list[int]:
    """Return how many tokens pass each stack of blocks in a step of these rows."""
    sizes: list[int] = []

    def note(stack: Stack, inputs: StackInputs) -> Tensor:
        sizes.append(len(inputs.x_Th))
        return stack(inputs)

    family.use_runner(note)
    family.velocity(rows)
    return sizes
