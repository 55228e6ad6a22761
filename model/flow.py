"""Flow time and how a latent walks along it: grids and solvers as pure functions.

Flow time runs from 0 (noise) to 1 (data): x_t = t·data + (1−t)·noise, velocity = data − noise.
A family trained the other way converts at its own edge.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.errors import BadRequest

SOLVERS = ("euler", "dpmpp_2m")
MAX_STEPS = 1000


def time_grid(
    num_steps: int, latent_rows: int, latent_columns: int, *, name: str = "omnigen2"
) -> tuple[float, ...]:
    """Return num_steps + 1 strictly rising times from 0 to 1, computed in float64, rounded to float32.

    "omnigen2" shifts by latent pixels: m = sqrt(rows·columns)/40, t = s/(m − m·s + s); "linear" does not.

    Raises:
        BadRequest: num_steps is out of range.

    Source: OmniGen2, arXiv:2506.18871, released scheduler, dynamic_time_shift.
    """
    check_num_steps(num_steps)
    even = [i / num_steps for i in range(num_steps)]
    if name == "omnigen2":
        m = math.sqrt(latent_rows * latent_columns) / 40
        even = [s / (m - m * s + s) for s in even]
    elif name != "linear":
        raise ValueError(f"time grid {name!r} must be 'omnigen2' or 'linear'")
    return tuple(torch.tensor([*even, 1.0], dtype=torch.float64).float().tolist())


def check_num_steps(num_steps: int) -> None:
    """Refuse a number of steps that no grid has.

    Raises:
        BadRequest: It is out of range.
    """
    if not 1 <= num_steps <= MAX_STEPS:
        raise BadRequest(
            f"num_inference_steps {num_steps} must be 1 to {MAX_STEPS}", param="num_inference_steps"
        )


def check_solver(solver: str) -> None:
    """Refuse a solver that there is not.

    Raises:
        BadRequest: Says which there are.
    """
    if solver not in SOLVERS:
        raise BadRequest(f"solver {solver!r} must be one of {', '.join(SOLVERS)}", param="solver")


def euler_step(latent: Tensor, velocity: Tensor, t: float, t_next: float) -> Tensor:
    """Go straight along the velocity from t to t_next."""
    return latent + (t_next - t) * velocity


def estimate_data(latent: Tensor, velocity: Tensor, t: float) -> Tensor:
    """Return where a straight flow from here would arrive at time 1."""
    return latent + (1 - t) * velocity


def dpmpp_2m_step(
    latent: Tensor, data: Tensor, t: float, t_next: float, *, earlier: tuple[float, Tensor] | None
) -> Tensor:
    """Take one step of DPM-Solver++ 2M in data-prediction form with alpha = t, sigma = 1 − t.

    Args:
        data: Estimated data at t.
        earlier: The time and the estimate before this one; None makes a first-order step.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2; order 1 at both ends as OmniGen2 has it.
    """
    if t_next >= 1:
        return data
    ratio = (1 - t_next) / (1 - t)
    if earlier is None or t <= 0:
        return ratio * latent + (t_next - ratio * t) * data
    eta = _log_snr(t_next) - _log_snr(t)
    q = -t_next * math.expm1(-eta)
    stepped = ratio * latent + q * data
    t_before, data_before = earlier
    if t_before <= 0:
        return stepped
    return stepped + 0.5 * q * (eta / (_log_snr(t) - _log_snr(t_before))) * (data - data_before)


def _log_snr(t: float) -> float:
    return math.log(t / (1 - t))


class Walk:
    """One picture's way along a time grid; the network is called by whoever walks it.

    Attributes:
        latent: Where it stands, float32.
        index: Steps taken.
        arrival: Where a straight flow would have ended from before the last step; None before the first.
    """

    def __init__(self, latent: Tensor, times: Sequence[float], solver: str = "euler") -> None:
        check_solver(solver)
        self.latent = latent
        self.times = tuple(times)
        self.solver = solver
        self.index = 0
        self.arrival: Tensor | None = None
        self._earlier: tuple[float, Tensor] | None = None

    @property
    def num_steps(self) -> int:
        """Steps from noise to data."""
        return len(self.times) - 1

    @property
    def time(self) -> float:
        """Flow time of the coming step."""
        return self.times[self.index]

    @property
    def is_done(self) -> bool:
        """Whether it has arrived."""
        return self.index == self.num_steps

    def advance(self, velocity: Tensor) -> None:
        """Take one solver step along the (guided) velocity."""
        t, t_next = self.times[self.index : self.index + 2]
        self.arrival = estimate_data(self.latent, velocity, t)
        if self.solver == "euler":
            self.latent = euler_step(self.latent, velocity, t, t_next)
        else:
            self.latent = dpmpp_2m_step(self.latent, self.arrival, t, t_next, earlier=self._earlier)
            self._earlier = (t, self.arrival)
        self.index += 1
