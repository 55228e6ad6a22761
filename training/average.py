"""The moving average of weights, which may be split over processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Average:
    """Exponential moving average of a module's trained parameters, in float32."""

    def __init__(self, module: nn.Module) -> None:
        self.shadow = {name: p.detach().clone() for name, p in trained(module)}
        self.steps = 0

    def update(self, module: nn.Module, keep: float) -> None:
        """Move the average towards the module; early steps count more, as keep <= (1+n)/(10+n)."""
        self.steps += 1
        keep = min(keep, (1 + self.steps) / (10 + self.steps))
        names, values = zip(*trained(module), strict=True)
        shadows = [local(self.shadow[name]) for name in names]
        torch._foreach_lerp_(shadows, [local(v.detach()) for v in values], 1 - keep)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Put the average into the module for a while."""
        kept = {name: p.detach().clone() for name, p in trained(module)}
        try:
            fill(module, self.shadow)
            yield
        finally:
            fill(module, kept)


@torch.no_grad()
def fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values into a module's trained parameters."""
    for name, p in trained(module):
        p.copy_(values[name])


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that learn, with their names."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor gathered from all processes, which must all call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
