import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.errors import BadRequest
from model.flow import SOLVERS, Walk, dpmpp_2m_step, estimate_data, euler_step, time_grid

TABLES = load_file(Path(__file__).parents[1] / "goldens/omnigen2/scheduler_timesteps.safetensors")


def walk(
    velocity_of: Callable[[Tensor, float], Tensor], latent: Tensor, times: tuple[float, ...], solver: str
) -> Tensor:
    walk = Walk(latent, times, solver)
    while not walk.is_done:
        walk.advance(velocity_of(walk.latent, walk.time))
    return walk.latent


@pytest.mark.parametrize("name", sorted(TABLES))
def test_grids_are_the_published_schedulers(name: str) -> None:
    _, steps, size = name.split(".")
    num_steps = int(steps.removeprefix("steps"))
    if size == "noshift":
        times = time_grid(num_steps, 1, 1, name="linear")
    else:
        times = time_grid(num_steps, *map(int, size.removeprefix("lat").split("x")))
    torch.testing.assert_close(torch.tensor(times), TABLES[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50, 1000])
def test_a_grid_rises_strictly_from_noise_to_data(num_steps: int) -> None:
    times = time_grid(num_steps, 128, 128)
    assert len(times) == num_steps + 1
    assert times[0] == 0
    assert times[-1] == 1
    assert all(before < after for before, after in pairwise(times))


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_a_number_of_steps_out_of_range_is_refused(num_steps: int) -> None:
    with pytest.raises(BadRequest, match="num_inference_steps"):
        time_grid(num_steps, 8, 8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_a_straight_flow_arrives_exactly_in_any_number_of_steps(num_steps: int, solver: str) -> None:
    noise, data = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    arrived = walk(lambda latent, time: data - noise, noise, time_grid(num_steps, 6, 6), solver)
    torch.testing.assert_close(arrived, data, atol=1e-6, rtol=0)


def curved(latent: Tensor, time: float) -> Tensor:
    return (2 - latent) * 1.5


def test_the_second_order_solver_beats_euler_on_a_curved_flow() -> None:
    noise = torch.tensor([0.0], dtype=torch.double)
    exact = 2 - 2 * torch.tensor([-1.5], dtype=torch.double).exp()
    errors = {s: (walk(curved, noise, time_grid(40, 1, 1, name="linear"), s) - exact).abs() for s in SOLVERS}
    assert errors["dpmpp_2m"] < errors["euler"] / 2


def test_the_second_order_solver_starts_and_ends_with_the_first_order() -> None:
    latent, data, before = torch.randn(3, 4)
    first = dpmpp_2m_step(latent, data, 0.25, 0.5, earlier=None)
    torch.testing.assert_close(first, (2 / 3) * latent + (1 / 3) * data)
    assert torch.equal(dpmpp_2m_step(latent, data, 0.5, 1.0, earlier=(0.25, before)), data)


def test_the_correction_after_pure_noise_is_left_out() -> None:
    latent, data, before = torch.randn(3, 4)
    with_noise = dpmpp_2m_step(latent, data, 0.25, 0.5, earlier=(0.0, before))
    torch.testing.assert_close(with_noise, dpmpp_2m_step(latent, data, 0.25, 0.5, earlier=None))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 9])
def test_the_second_order_solver_takes_the_published_steps(num_steps: int) -> None:
    """As the specification writes them: alpha = t, sigma = 1 - t, lambda = ln(alpha / sigma)."""
    times = time_grid(num_steps, 16, 24)
    x = noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    before: list[tuple[float, Tensor]] = []
    for i, (t, t_next) in enumerate(pairwise(times)):
        alpha, sigma = t, 1 - t
        data = x + sigma * curved(x, t)
        if i == num_steps - 1:
            x = data
            break
        alpha_next, sigma_next = t_next, 1 - t_next
        ratio = sigma_next / sigma
        if i == 0:
            x = ratio * x + (alpha_next - ratio * alpha) * data
        else:
            snr, snr_next = math.log(alpha / sigma), math.log(alpha_next / sigma_next)
            (t_before, data_before), eta = before[-1], snr_next - snr
            snr_before = math.log(t_before / (1 - t_before)) if t_before else -math.inf
            q = alpha_next * (1 - math.exp(-eta))
            x = ratio * x + q * data + 0.5 * q * (eta / (snr - snr_before)) * (data - data_before)
        before.append((t, data))
    torch.testing.assert_close(walk(curved, noise, times, "dpmpp_2m"), x, atol=1e-9, rtol=0)


def test_estimated_data_is_where_euler_goes_in_one_step() -> None:
    latent, velocity = torch.randn(2, 4)
    torch.testing.assert_close(estimate_data(latent, velocity, 0.3), euler_step(latent, velocity, 0.3, 1.0))


def test_an_unknown_solver_or_grid_is_refused() -> None:
    with pytest.raises(BadRequest, match="heun"):
        Walk(torch.zeros(1), (0.0, 1.0), "heun")
    with pytest.raises(ValueError, match="cosine"):
        time_grid(2, 8, 8, name="cosine")
