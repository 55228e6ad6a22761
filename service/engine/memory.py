"""How much memory a step takes at its peak, measured once and then foretold; and how much there is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from service.engine.cost import CostModel, Load, Stage

MIB = 2**20
MARGIN = 1.3
"""For what no tensor shows: workspaces of kernels, and gaps between allocations."""
CGROUP = Path("/sys/fs/cgroup")


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors that come to be inside it, on any device.

    Attributes:
        peak_bytes: The most that was alive at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._alive: dict[int, tuple[Callable[[], bool], int]] = {}

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it made; views and what was changed in place are no news."""
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = function(*args, **(kwargs or {}))
        news = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        if news := [leaf for leaf in news if _key(leaf) not in given]:
            for leaf in news:
                storage = leaf.untyped_storage()
                self._alive[_key(leaf)] = _watch(storage), storage.nbytes()
            self._alive = {key: each for key, each in self._alive.items() if not each[0]()}
            self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return made


def _watch(storage: torch.UntypedStorage) -> Callable[[], bool]:
    """Return what says whether a storage has gone, without keeping it."""
    return cast(Callable[[], bool], StorageWeakRef(storage).expired)  # type: ignore[no-untyped-call]


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class MemoryModel:
    """Foretells the peak of a step from its stage and load, with a margin; nothing before it was taught."""

    def __init__(self, model: CostModel | None = None) -> None:
        self._model = model or CostModel()

    @classmethod
    def from_file(cls, path: Path) -> "MemoryModel":
        """Return what was measured before; as CostModel.from_file."""
        return cls(CostModel.from_file(path))

    def to_file(self, path: Path) -> None:
        """Write what was measured; as CostModel.to_file."""
        self._model.to_file(path)

    def adopt(self, other: "MemoryModel") -> None:
        """Go on from what another has learnt."""
        self._model.adopt(other._model)

    def observe(self, stage: Stage, load: Load, peak_bytes: int) -> None:
        """Learn what a step took."""
        self._model.observe(stage, load, peak_bytes / MIB)

    def bytes(self, stage: Stage, load: Load) -> int:
        """Return what a step will take at its peak."""
        return int(MARGIN * MIB * self._model.seconds(stage, load))


def held_and_needed(peaks: Mapping[Stage, int]) -> tuple[int, int]:
    """Return what a job holds between its steps, and what it needs in all, from its steps' peaks.

    It holds no more than its prefill takes at its peak.
    """
    held = peaks.get("prefill", 0)
    return held, held + max((peak for stage, peak in peaks.items() if stage != "prefill"), default=0)


def free_bytes(device: str) -> int:
    """Return how much memory is free on a device: for the processor, within this container's limit."""
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return min(psutil.virtual_memory().available, _left_of_container(CGROUP))


def _left_of_container(folder: Path) -> int:
    """Return what a control group, version 2, leaves; 2^63 - 1 where it sets no limit."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return 2**63 - 1
    return 2**63 - 1 if limit == "max" else max(0, int(limit) - int(used))
