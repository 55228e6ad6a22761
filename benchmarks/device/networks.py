"""The networks of the plan with random weights, built on the device when first asked for."""

import gc
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from benchmarks.device.plan import Model, Precision, Scale
from benchmarks.sizes import TOYS
from model.checkpoint import build, build_random, read_config
from model.errors import UnusableQuantization
from model.quantize import Scheme, check_scheme, quantize, stored_bytes
from model.registry import LoadableFamily, resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A family on the device."""

    family: LoadableFamily
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

    @property
    def weight_bytes(self) -> int:
        """Memory of all that is kept."""
        return sum(network.weight_bytes for network in self._built.values())

    def get(self, model: Model, precision: Precision) -> Network:
        """Return a network; of the others, let those go that leave no room for one like the largest.

        Raises:
            Unavailable: It cannot be had in this precision here.
        """
        key = model, precision
        if key not in self._built:
            self._make_room()
            self._built[key] = self._build(model, precision)
        return self._built[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._built.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def config(self, model: Model) -> dict[str, Any]:
        """Return the config of a model at this scale."""
        return TOYS[model] if self._scale.size == "toy" else read_config(resolve(model))

    def _build(self, model: Model, precision: Precision) -> Network:
        begun = perf_counter()
        scheme: Scheme = "fp8" if precision == "fp8" else "none"
        dtype = getattr(torch, self._scale.precision if scheme == "fp8" else precision)
        try:
            check_scheme(scheme, self.device, dtype)
        except UnusableQuantization as error:
            raise Unavailable(str(error)) from error
        family = build_random(self.config(model), seed=self._seed, device=self.device, dtype=dtype)
        quantize(family.module, scheme)
        return Network(
            family=family,
            weight_bytes=stored_bytes(family.module),
            build_seconds=perf_counter() - begun,
        )

    def _make_room(self) -> None:
        if self.device.type != "cuda" or not self._built:
            return
        free, total = torch.cuda.mem_get_info(self.device)
        # The working memory of the largest steps is taken to be a fifth of the device.
        if free - max(each.weight_bytes for each in self._built.values()) < total / 5:
            self.clear()


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
