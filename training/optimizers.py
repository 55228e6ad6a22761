"""What moves the weights: AdamW alone, or Muon for the matrices of repeated layers and AdamW for the rest."""

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from training.errors import TrainingRefused

OptimizerName = Literal["adamw", "muon"]


def optimizers(
    name: OptimizerName, named: Sequence[tuple[str, nn.Parameter]], *, weight_decay: float
) -> list[Optimizer]:
    """Return what moves these parameters, each by one of them.

    Muon makes a step along an orthogonal matrix, as long as AdamW's would be, so that one rate serves both.
    It needs whole matrices.

    Args:
        name: "muon" takes the matrices whose names have a number in their path, for first and last layers
            do better with AdamW.
        named: Parameters with their names.
        weight_decay: Of both.

    Raises:
        TrainingRefused: Muon is to move weights that are split over processes.

    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025, arXiv:2502.16982, section 2.2, for the length.
    """
    hidden = [p for each, p in named if name == "muon" and p.ndim == 2 and _is_numbered(each)]
    if any(isinstance(p, DTensor) for p in hidden):
        raise TrainingRefused("optimizer muon needs whole matrices, and these are split: use adamw")
    taken = set(map(id, hidden))
    rest = [p for _, p in named if id(p) not in taken]
    adamw = AdamW(rest, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    if not hidden:
        return [adamw]
    return [Muon(hidden, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"), adamw]


def _is_numbered(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))
