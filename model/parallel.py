"""Steps of one model on several devices: a process each, with a whole model; one leads, the others follow.

The leader has the requests and everything that is not a step. It tells the followers the rows of each step;
all compute it together: rows are shared out among groups of processes, and within a group the packed tokens
are cut into parts. So two guidance branches on two devices are a row each, which needs no exchange at all.
Contexts and references travel to the followers once, with the first step that reads them.

Guidance-branch parallelism: xDiT, Fang et al. 2024, arXiv:2411.01738, section 4.
"""

import io
import pickle
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from model.family import Family, Row
from model.omnigen2.stack import Runner, run_as_is
from model.sequence_parallel import SplitRunner

NO_LIMIT = timedelta(days=3650)
"""Of a process group: followers wait for the next step as long as nobody asks for one."""
WORTH = 1.05
"""How much longer the busiest group may take than at best, for the sake of fewer processes in a group."""

Shares = tuple[tuple[int, ...], ...]
"""For each group of processes, in order, the rows that it computes."""


def share_out(loads: Sequence[float], num_processes: int) -> Shares:
    """Share rows out so that a step ends soon, among as many groups as that allows.

    Args:
        loads: How much work each row is.
        num_processes: Groups have equal numbers of them.
    """
    plans = [
        _balanced(loads, num_groups)
        for num_groups in range(min(num_processes, len(loads)), 0, -1)
        if num_processes % num_groups == 0
    ]
    seconds = [max(sum(loads[row] for row in rows) for rows in plan) * len(plan) for plan in plans]
    return next(plan for plan, each in zip(plans, seconds, strict=True) if each <= WORTH * min(seconds))


def _balanced(loads: Sequence[float], num_groups: int) -> Shares:
    """Give each row, heavy ones first, to the group that has least."""
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    for row in sorted(range(len(loads)), key=lambda row: -loads[row]):
        min(groups, key=lambda group: sum(loads[each] for each in group)).append(row)
    return tuple(tuple(sorted(group)) for group in groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the leader tells before a step.

    Attributes:
        content: Pickled shares and rows, without tensors.
        layouts: Number, shape, dtype and kind of device of each tensor that travels now.
        forgotten: Numbers of tensors that will not be needed again.
    """

    content: bytes
    layouts: tuple[tuple[int, torch.Size, torch.dtype, str], ...]
    forgotten: tuple[int, ...]


class Pickler(pickle.Pickler):
    """Leaves tensors out; `number` returns what is written in their place."""

    def __init__(self, file: io.BytesIO, number: Callable[[Tensor], int]) -> None:
        super().__init__(file, protocol=5)
        self._number = number

    def persistent_id(self, value: Any) -> int | None:
        """Say what is written in place of a value; None writes the value."""
        return self._number(value) if isinstance(value, Tensor) else None


class Unpickler(pickle.Unpickler):
    """Puts tensors in again."""

    def __init__(self, content: bytes, tensors: Mapping[int, Tensor]) -> None:
        super().__init__(io.BytesIO(content))
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        """Return what a number was written for."""
        return self._tensors[number]


class Sender:
    """Turns plain data with tensors into messages; a tensor travels once, as long as it lives.

    Tensors must not be changed in place.
    """

    def __init__(self) -> None:
        self._numbers = WeakTensorKeyDictionary()
        self._num_sent = 0
        self._forgotten: list[int] = []

    def pack(self, content: Any) -> tuple[Message, list[Tensor]]:
        """Return a message, and the tensors that the other end has not."""
        new: dict[int, Tensor] = {}

        def number(tensor: Tensor) -> int:
            if tensor not in self._numbers:
                new[self._remember(tensor)] = tensor
            return cast(int, self._numbers[tensor])

        file = io.BytesIO()
        Pickler(file, number).dump(content)
        message = Message(
            content=file.getvalue(),
            layouts=tuple((i, each.shape, each.dtype, each.device.type) for i, each in new.items()),
            forgotten=tuple(self._forgotten.pop() for _ in range(len(self._forgotten))),
        )
        return message, list(new.values())

    def _remember(self, tensor: Tensor) -> int:
        number, self._num_sent = self._num_sent, self._num_sent + 1
        self._numbers[tensor] = number
        weakref.finalize(tensor, self._forgotten.append, number).atexit = False
        return number


class Receiver:
    """Turns messages back; keeps tensors until it is told to forget them."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}

    def unpack(self, message: Message, take: Callable[[torch.Size, torch.dtype, str], Tensor]) -> Any:
        """Return what was packed.

        Args:
            take: Returns the next tensor that travels, of this shape, dtype and kind of device.
        """
        for number in message.forgotten:
            del self._tensors[number]
        for number, shape, dtype, kind in message.layouts:
            self._tensors[number] = take(shape, dtype, kind)
        return Unpickler(message.content, self._tensors).load()


class Group:
    """A family's place among the processes that compute its steps; made in all of them at the same time.

    The default process group must be there, and have a backend for the CPU and one for the device.

    Args:
        family: The same model in each, on the process's device.
        runner: How stacks are computed when a process has rows of its own.
    """

    def __init__(self, family: Family, device: torch.device, runner: Runner | None = None) -> None:
        self.rank, self.num = dist.get_rank(), dist.get_world_size()
        self._family, self._device, self._runner = family, device, runner or run_as_is
        self._together: dict[int, dist.ProcessGroup] = {}
        for size in (size for size in range(2, self.num + 1) if self.num % size == 0):
            for first in range(0, self.num, size):
                group = dist.new_group(list(range(first, first + size)), timeout=NO_LIMIT)
                if first <= self.rank < first + size:
                    self._together[size] = group

    def tell(self, message: Message | None, tensors: Sequence[Tensor]) -> None:
        """Tell all followers; None is the last message."""
        dist.broadcast_object_list([message], 0)
        for tensor in tensors:
            dist.broadcast(_bytes(tensor), 0)

    def hear(self) -> Message | None:
        """Wait for the leader's next message."""
        heard: list[Message | None] = [None]
        dist.broadcast_object_list(heard, 0)
        return heard[0]

    def take(self, shape: torch.Size, dtype: torch.dtype, kind: str) -> Tensor:
        """Return the next tensor that the leader sends, on this kind of device."""
        tensor = torch.empty(shape, dtype=dtype, device=self._device if kind == self._device.type else kind)
        dist.broadcast(_bytes(tensor), 0)
        return tensor

    def compute(self, shares: Shares, rows: Sequence[Row]) -> list[Tensor]:
        """Compute the velocities [C, Y, X] of the share of this process's group, together with the group."""
        size = self.num // len(shares)
        self._family.use_runner(self._runner if size == 1 else SplitRunner(self._together[size]))
        return self._family.velocity([rows[row] for row in shares[self.rank // size]])

    def give(self, shares: Shares, velocities: Sequence[Tensor]) -> None:
        """Send the leader a group's velocities, from its first process."""
        size = self.num // len(shares)
        if self.rank % size == 0:
            for velocity_CYX in velocities:
                dist.send(velocity_CYX.contiguous(), 0)

    def collect(self, shares: Shares, rows: Sequence[Row], own: Sequence[Tensor]) -> list[Tensor]:
        """Return all velocities in the order of the rows, the leader's own and those of other groups."""
        found = dict(zip(shares[0], own, strict=True))
        size = self.num // len(shares)
        for group, share in enumerate(shares[1:], 1):
            for row in share:
                found[row] = torch.empty_like(rows[row].latent_CYX, dtype=torch.float32)
                dist.recv(found[row], group * size)
        return [found[row] for row in range(len(rows))]


class ParallelFamily:
    """The leader's family: its steps are computed by all, everything else by this process alone.

    Args:
        group: The leader's place.
        fail: Called with what went wrong within a step. The processes may then wait for each other for
            ever, so it should end them.
    """

    def __init__(self, family: Family, group: Group, fail: Callable[[Exception], None]) -> None:
        self._family, self._group, self._fail = family, group, fail
        self._sender = Sender()

    def velocity(self, rows: Sequence[Row]) -> list[Tensor]:
        """Predict velocities, as the family alone would, to rounding."""
        loads = [self._family.flops.velocity([row]) for row in rows]
        shares = share_out(loads, self._group.num)
        try:
            self._group.tell(*self._sender.pack((shares, tuple(rows))))
            return self._group.collect(shares, rows, self._group.compute(shares, rows))
        except Exception as error:
            self._fail(error)
            raise

    def close(self) -> None:
        """Let the followers end."""
        self._group.tell(None, ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)


@torch.inference_mode()
def follow(group: Group) -> None:
    """Compute steps with the leader until it closes."""
    receiver = Receiver()
    while message := group.hear():
        shares, rows = receiver.unpack(message, group.take)
        group.give(shares, group.compute(shares, rows))


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's memory as bytes, which every backend can send; a copy if it lies apart."""
    return tensor.contiguous().flatten().view(torch.uint8)
