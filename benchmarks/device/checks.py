"""Whether what is fast is right: every attention backend and kernel, and a small network, on this device.

Inputs are drawn anew for every run. What is compared with is the plain way in double precision.

Shapes: T packed query positions, S packed key positions, H query heads, K key heads, D head dim.
"""

from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor

from benchmarks.device.plan import Scale
from benchmarks.device.record import Check
from model.attention import Backend, Segments, attend
from model.checkpoint import load
from model.family import Row, Size
from model.prompt import Prompt

MODEL = "hbridge-tiny"
BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
NETWORK_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
HEADS = {"full": ((21, 7, 120), (28, 4, 128)), "toy": ((4, 2, 12), (4, 2, 16))}
LENGTHS = {"full": (1040, 272, 17), "toy": (20, 7, 1)}
CONTEXT = {"full": 320, "toy": 9}


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


def run_checks(device: torch.device, scale: Scale, seed: int) -> Iterator[Check]:
    """Check attention, kernels and the shipped network on a device."""
    generator = torch.Generator(device).manual_seed(seed)
    yield from _check_attention(device, scale, generator)
    yield from _check_network(device, scale, seed)


def _check_attention(device: torch.device, scale: Scale, generator: torch.Generator) -> Iterator[Check]:
    """Compare every backend with matrices in float64, for both experts' heads, causal or with a context."""
    dtype = getattr(torch, scale.precision)
    lengths, context = LENGTHS[scale.size], CONTEXT[scale.size]
    for (H, K, D), causal in ((heads, causal) for heads in HEADS[scale.size] for causal in (False, True)):
        kv_lengths = lengths if causal else tuple(length + context for length in lengths)
        q_THD, k_SKD, v_SKD = (
            torch.randn(sum(each), heads, D, device=device, generator=generator).to(dtype)
            for each, heads in ((lengths, H), (kv_lengths, K), (kv_lengths, K))
        )
        plain = Segments(lengths, kv_lengths, causal, "plain")
        wanted = attend(q_THD.double(), k_SKD.double(), v_SKD.double(), plain)
        for backend in get_args(Backend):
            kind = "causal" if causal else "whole"
            found = attend(q_THD, k_SKD, v_SKD, Segments(lengths, kv_lengths, causal, backend))
            yield compared(f"attention {backend} {kind} {H}/{K}x{D}", [found], [wanted], BOUNDS[dtype])


def _check_network(device: torch.device, scale: Scale, seed: int) -> Iterator[Check]:
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
