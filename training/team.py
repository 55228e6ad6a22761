"""The processes that share a run, and what each of them holds of the weights.

A `Team` holds all weights in every process and averages gradients: for models that fit many times over.
`Shards` splits weights, averages and the optimiser's state over the processes (PyTorch's FSDP2): for full
size. Both take the same steps; a test says so. Neither knows what is learnt.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from warnings import catch_warnings, filterwarnings

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from training.errors import TrainingRefused

Figures = dict[str, float]
State = dict[str, Any]
WHOLE = "state.pt"
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Team:
    """Processes that hold all weights each.

    Attributes:
        rank: This process; 0 writes files.
        size: How many there are.
        device: Where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def join(cls) -> Self:
        """Meet the others when started by torchrun; otherwise work alone."""
        if not distributed.is_torchelastic_launched():
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def looks(self) -> bool:
        """Whether this process takes part in evaluations."""
        return self.rank == 0

    def computing(self, *, bfloat16: bool) -> AbstractContextManager[Any]:
        """Multiply matrices in bfloat16 for a while, if that is asked."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average gradients over the team; a parameter that a step did not use has gradient 0."""
        _fill_gradients(parameters)
        if self.size > 1:
            joined = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            distributed.all_reduce(joined)
            parts = torch.split(joined / self.size, [p.numel() for p in parameters])
            for p, part in zip(parameters, parts, strict=True):
                p.grad = part.view_as(p)

    def gather(self, mine: Sequence[Figures]) -> list[Figures]:
        """Return the figures of all micro-batches in their order; every process must call it."""
        if self.size == 1:
            return list(mine)
        everyones: list[Sequence[Figures]] = [()] * self.size
        distributed.all_gather_object(everyones, mine)
        return [figures for turn in zip(*everyones, strict=True) for figures in turn]

    def save(self, folder: Path, state: State, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Keep a state that a run can go on from; it is there as a whole or not at all."""
        if self.rank == 0:
            partial = folder / f"{WHOLE}.partial"
            kept = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({**state, "optimizers": kept}, partial)
            partial.replace(folder / WHOLE)

    def load(
        self, folder: Path, state: State, module: nn.Module, optimizers: Sequence[Optimizer]
    ) -> State | None:
        """Return the state that was kept last, None if there is none, and put the optimisers' back.

        Args:
            folder: Of the run.
            state: What a state looks like.
            module: What is trained.
            optimizers: Of its parameters.

        Raises:
            TrainingRefused: They are others than those that the run had.
        """
        if not (folder / WHOLE).exists():
            return None
        kept: State = torch.load(folder / WHOLE, weights_only=True, map_location=self.device)
        if "optimizers" in kept:
            if len(kept["optimizers"]) != len(optimizers):
                raise TrainingRefused(
                    f"{folder} was trained by another optimizer: name that one, or start anew"
                )
            for optimizer, its in zip(optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(its)
        return kept


class Shards(Team):
    """Processes that hold a part of the trained weights each, float32, and gather them layer by layer."""

    __slots__ = ()

    @classmethod
    def join(cls) -> Self:
        """Meet the others on GPUs if there are any; without torchrun, make a team of one."""
        launched = distributed.is_torchelastic_launched()
        if not distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            if launched:
                distributed.init_process_group(backend)
            else:
                store = HashStore()
                distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        device = CPU
        if torch.cuda.is_available():
            device = torch.device("cuda", distributed.get_node_local_rank(fallback_rank=0))
            torch.cuda.set_device(device)
        return cls(distributed.get_rank(), distributed.get_world_size(), device)

    def shard(self, module: nn.Module, parts: Iterable[nn.Module], *, bfloat16: bool) -> None:
        """Split a module's weights, made float32, over the team.

        Args:
            module: What is called as a whole.
            parts: Modules in it that are gathered one at a time, each when it is called. All processes must
                call the same ones in a step.
            bfloat16: Gather weights and compute in bfloat16; gradients are added up in float32.
        """
        mesh = init_device_mesh(self.device.type, (self.size,))
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if bfloat16 else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for part in (*parts, module):
            fully_shard(part.float(), mesh=mesh, mp_policy=policy, reshard_after_forward=True)

    @property
    def looks(self) -> bool:
        """Every process does: weights are gathered from all."""
        return True

    def computing(self, *, bfloat16: bool) -> AbstractContextManager[Any]:
        """Do nothing: `shard` has said in what is computed."""
        return nullcontext()

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Fill in gradients of 0; the others were averaged on the way back."""
        _fill_gradients(parameters)

    def save(self, folder: Path, state: State, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Keep a state, every process its part; the one before goes when this one is there."""
        target = folder / f"state-{state['step']:07d}"
        partial = folder / "state.partial"
        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        distributed.barrier()
        whole = {**state, "optimizers": get_optimizer_state_dict(module, optimizers)}
        state_dict_saver.save(whole, checkpoint_id=partial)
        if self.rank == 0:
            before = _states(folder)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for old in before:
                if old != target:
                    shutil.rmtree(old)
        distributed.barrier()

    def load(
        self, folder: Path, state: State, module: nn.Module, optimizers: Sequence[Optimizer]
    ) -> State | None:
        """Return the state that was kept last; it may have been kept by a team of another size."""
        if not (states := _states(folder)):
            return None
        whole = {**state, "optimizers": get_optimizer_state_dict(module, optimizers)}
        state_dict_loader.load(whole, checkpoint_id=states[-1])
        set_optimizer_state_dict(module, optimizers, whole.pop("optimizers"))
        return whole


def leave() -> None:
    """End what `join` began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def read_average(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights that a run left, whoever ran it, in float32 on the CPU.

    Raises:
        FileNotFoundError: There is no state.
    """
    states = _states(folder)
    if not states:
        kept: Mapping[str, dict[str, Tensor]] = torch.load(folder / WHOLE, weights_only=True)
        return kept["average"]
    reader = FileSystemReader(states[-1])
    sizes = {
        name.removeprefix("average."): each.size
        for name, each in reader.read_metadata().state_dict_metadata.items()
        if name.startswith("average.") and isinstance(each, TensorStorageMetadata)
    }
    average = {name: torch.empty(size) for name, size in sizes.items()}
    with catch_warnings():
        filterwarnings("ignore", message="torch.distributed is disabled")  # that it is one process is meant
        state_dict_loader.load({"average": average}, storage_reader=reader, no_dist=True)
    return average


def _fill_gradients(parameters: Sequence[nn.Parameter]) -> None:
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)


def _states(folder: Path) -> list[Path]:
    """Return what `Shards` kept whole, the last one last."""
    return sorted(folder.glob("state-[0-9]*"))
