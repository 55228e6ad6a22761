"""The networks of the plan with random weights, built on the device when first asked for."""

import gc
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch

from benchmarks.device.plan import Model, Precision, Scale
from benchmarks.sizes import TOYS
from model.attention import Backend, Heads
from model.backend_choice import Trial, choose_both, try_backends
from model.checkpoint import build, build_random, read_config
from model.errors import UnusableQuantization
from model.omnigen2.stack import run_as_is
from model.quantize import Scheme, check_scheme, quantize, stored_bytes
from model.registry import LoadableFamily, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A family on the device.

    Attributes:
        backend: Of the generation side's attention: the fastest that is right, as it is served.
    """

    family: LoadableFamily
    backend: Backend
    weight_bytes: int
    build_seconds: float


class Unavailable(Exception):
    """Something cannot run on this device, or with what is installed here."""


class Networks:
    """Keeps what was built for as long as there is room.

    Args:
        device: Where weights are drawn and stay.
        scale: Says which sizes.
        seed: Of the weights.
    """

    def __init__(self, device: torch.device, scale: Scale, seed: int) -> None:
        self.device, self._scale, self._seed = device, scale, seed
        self._built: dict[tuple[Model, Precision], Network] = {}
        self._tried: dict[object, list[Trial]] = {}

    @property
    def weight_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum(network.weight_bytes for network in self._built.values())

    def get(self, model: Model, precision: Precision) -> Network:
        """Return a network; those that were not asked for longest go where it leaves them no room.

        Raises:
            Unavailable: It cannot be had in this precision here.
        """
        key = model, precision
        network = self._built.pop(key, None) or self._build(model, precision)
        self._built[key] = network  # the last of them now
        return network

    def release(self) -> None:
        """Let go of what steps were prepared for, and of memory that is only kept for later."""
        for network in self._built.values():
            network.family.use_runner(run_as_is)
        torch.compiler.reset()
        self._empty()

    def clear(self) -> None:
        """Let go of everything."""
        self._built.clear()
        self._empty()

    def config(self, model: Model) -> dict[str, Any]:
        """Return the config of a model at this scale."""
        return TOYS[model] if self._scale.size == "toy" else read_config(resolve(model))

    def _build(self, model: Model, precision: Precision) -> Network:
        scheme: Scheme = "fp8" if precision == "fp8" else "none"
        dtype = getattr(torch, self._scale.precision if scheme == "fp8" else precision)
        try:
            check_scheme(scheme, self.device, dtype)
        except UnusableQuantization as error:
            raise Unavailable(str(error)) from error
        self._make_room()
        begun = perf_counter()
        family = build_random(self.config(model), seed=self._seed, device=self.device, dtype=dtype)
        backend = self._choose(family, dtype)
        quantize(family.module, scheme)
        return Network(
            family=family,
            backend=backend,
            weight_bytes=stored_bytes(family.module),
            build_seconds=perf_counter() - begun,
        )

    def _choose(self, family: LoadableFamily, dtype: torch.dtype) -> Backend:
        """Let a family compute attention by what is fastest on this device."""
        if self.device.type != "cuda":
            return "sdpa"
        picture = (self._scale.sides[0] // family.capabilities.size_step) ** 2
        lengths = (picture, picture), (self._scale.prompt_tokens, self._scale.prompt_tokens)
        chosen = choose_both(family.heads, lengths, partial(self._try, dtype))
        family.use_backends(*chosen)
        return chosen[0]

    def _try(self, dtype: torch.dtype, heads: Heads, lengths: tuple[int, ...]) -> list[Trial]:
        key = heads, lengths, dtype
        if key not in self._tried:
            self._tried[key] = try_backends(self.device, dtype, heads, lengths)
        return self._tried[key]

    def _make_room(self) -> None:
        """Let go until there is room for a network like the largest and a fifth of the device to work in."""
        while self.device.type == "cuda" and self._built:
            self._empty()
            free, total = torch.cuda.mem_get_info(self.device)
            if free - max(each.weight_bytes for each in self._built.values()) >= total / 5:
                return
            del self._built[next(iter(self._built))]

    def _empty(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def densely_bridged(bridged: LoadableFamily, config: dict[str, Any], seed: int) -> LoadableFamily:
    """Return the same hbridge with every pair bridged: further bridges have random weights of their own."""
    dense = build({**config, "skip_first": 0, "skip_last": 0})
    known = bridged.module.state_dict()
    like = next(iter(known.values()))
    generator = torch.Generator(like.device).manual_seed(seed)
    weights = {}
    for name, weight in dense.module.state_dict().items():
        if name in known:
            weights[name] = known[name]
        else:
            drawn = torch.empty(weight.shape, device=like.device, dtype=like.dtype)
            weights[name] = drawn.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
    dense.module.load_state_dict(weights, assign=True)
    dense.module.requires_grad_(False).eval()
    return dense
