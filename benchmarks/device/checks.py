"""Whether what is fast is right: every kernel and attention backend, and a small network, on this device.

Inputs are drawn anew for every run. What is compared with is the plain way in higher precision.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from benchmarks.device.record import Check
from model.attention import BACKENDS
from model.backend_choice import BOUNDS as BACKEND_BOUNDS
from model.backend_choice import problem
from model.checkpoint import load
from model.family import Row, Size
from model.kernels.check import DTYPES, check_all
from model.prompt import Prompt

MODEL = "hbridge-tiny"
NETWORK_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return the norm of the difference over the norm of what is wanted; nan stays nan."""
    found_N, wanted_N = (
        torch.cat([each.detach().double().cpu().flatten() for each in all_]) for all_ in (found, wanted)
    )
    return float((found_N - wanted_N).norm() / wanted_N.norm())


def compared(name: str, found: Sequence[Tensor], wanted: Sequence[Tensor], bound: float) -> Check:
    """Return how far one result is from another, and whether that is near enough."""
    error = distance(found, wanted)
    return Check(name=name, error=error, bound=bound, passed=error <= bound)


def run_checks(device: torch.device, seed: int) -> Iterator[Check]:
    """Check attention, kernels and the shipped network on a device."""
    torch.manual_seed(seed)
    yield from _check_kernels(device)
    yield from _check_network(device, seed)


def _check_kernels(device: torch.device) -> Iterator[Check]:
    """Compare every kernel and every attention backend with its plain twin; say which cannot be used here."""
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for backend in BACKENDS:
            if reason := problem(backend, device, dtype):
                bound = BACKEND_BOUNDS[dtype]
                yield Check(
                    name=f"attend {backend} {name}", error=None, bound=bound, passed=None, reason=reason
                )
        try:
            checked = check_all(device, (dtype,))
        except Exception as error:  # a library may fail in any way, and the rest is still to be seen
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            yield Check(name=f"kernels {name}", error=None, bound=0.0, passed=False, reason=reason)
            continue
        for each in checked:
            yield Check(name=f"{each.name} {each.dtype}", error=each.error, bound=each.bound, passed=each.ok)


def _check_network(device: torch.device, seed: int) -> Iterator[Check]:
    """Compare the shipped checkpoint on the device with itself on the processor in float32."""
    wanted = _velocities(torch.device("cpu"), torch.float32, seed)
    for dtype in (torch.float32, torch.bfloat16):
        found = _velocities(device, dtype, seed)
        name = f"{MODEL} {str(dtype).removeprefix('torch.')} on {device.type}"
        yield compared(name, found, wanted, NETWORK_BOUNDS[dtype])


@torch.inference_mode()
def _velocities(device: torch.device, dtype: torch.dtype, seed: int) -> list[Tensor]:
    family = load(MODEL, device=device, dtype=dtype)
    prompts = [Prompt.of_tokens(tuple(range(20, 20 + count)), task="generate") for count in (9, 4)]
    contexts = family.prefill(prompts)
    latents = [family.noise(Size(64, 64), seed), family.noise(Size(32, 48), seed + 1)]
    rows = [
        Row(latent_CYX=latent_CYX, time=time, context=context)
        for latent_CYX, time, context in zip(latents, (0.2, 0.7), contexts, strict=True)
    ]
    return family.velocity(rows)
