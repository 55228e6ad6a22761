"""How each kind of case is measured, in the process that has the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from benchmarks.device.ceilings import measure_attention, measure_ceilings
from benchmarks.device.checks import compared, distance, run_checks
from benchmarks.device.gaps import measure_gaps
from benchmarks.device.networks import Network, Networks, densely_bridged
from benchmarks.device.plan import SCALES, Case, Kind, Size
from benchmarks.device.record import Check, Outcome, Timed, Times
from benchmarks.device.steps import make_step
from benchmarks.device.timing import Timer, settle
from benchmarks.device.workload import Workload
from model.attention import Heads
from model.family import Family, Row
from model.hbridge.config import HBridgeConfig
from model.omnigen2.stack import run_as_is

Ways = Mapping[str, Callable[[], list[Tensor]]]
BOUNDS = {"float32": 1e-3, "bfloat16": 5e-2, "fp8": 3e-1}
"""Of a step against the plain one: its rounding in other places, through all layers; fp8 is lossy."""
AGREE = 1e-2
PROFILED_STEPS = 4
PATCH = 2
"""Latent pixels on a side of a token, in all networks that are measured."""


class Bench:
    """Measures cases on one device.

    Args:
        device: Where.
        size: Of the plan.
        seed: Of weights, inputs and noise.
    """

    def __init__(self, device: torch.device, size: Size, seed: int) -> None:
        self.device, self.seed = device, seed
        self.scale = SCALES[size]
        self.timer = Timer(device, repeats=self.scale.repeats, seconds=self.scale.measure_seconds)
        self.networks = Networks(device, self.scale, seed)
        self._references: dict[Case, list[Tensor]] = {}
        dtype = getattr(torch, self.scale.precision)
        settle(device, dtype, self.scale.matmul_side, self.scale.settle_seconds)

    @torch.inference_mode()
    def measure(self, case: Case) -> Outcome:
        """Measure a case; raises whatever goes wrong with it.

        Raises:
            Unavailable: It cannot run here.
        """
        try:
            return MEASURES[case.kind](self, case)
        finally:
            if case.mode != "eager":
                self.networks.release()

    def checks(self, case: Case) -> Outcome:
        """Compare everything that is fast with what is plain."""
        checks = run_checks(self.device, self.seed)
        return Outcome(name=case.name, case=case, status="measured", checks=tuple(checks))

    def ceilings(self, case: Case) -> Outcome:
        """Measure what the device can do at its best."""
        dtype, config = (
            getattr(torch, case.precision),
            HBridgeConfig.from_dict(self.networks.config("hbridge")),
        )
        tokens = (self.scale.sides[0] // config.size_step) ** 2
        rates = list(
            measure_ceilings(
                self.timer,
                dtype,
                side=self.scale.matmul_side,
                own=[(2 * tokens, *widths) for widths in layer_widths(config)],
                copy_bytes=self.scale.copy_bytes,
            )
        )
        gen, und = config.generation, config.understanding
        for heads in (
            Heads(gen.num_attention_heads, gen.num_kv_heads, gen.head_dim),
            Heads(und.num_attention_heads, und.num_key_value_heads, und.head_dim),
        ):
            rates += measure_attention(self.timer, dtype, heads, (tokens, tokens))
        return Outcome(name=case.name, case=case, status="measured", rates=tuple(rates))

    def step(self, case: Case) -> Outcome:
        """Time one packed step of all pictures and branches."""
        wanted = self._reference(case)
        network, load = self._ready(case)
        rows = load.pictures().rows()
        step = make_step(network, case.mode, rows)
        checks = self._check(case, step(rows), wanted)
        self._reset_peak()
        times = self.timer.measure(lambda: step(rows))
        timed = self._timed(network, times, Amount.of(network.family, rows))
        return measured(case, replace(timed, error=checks[0].error if checks else None), checks)

    def denoise(self, case: Case) -> Outcome:
        """Time all steps of a picture, guidance and solver included; then see how much of it was idle."""
        wanted = self._reference(case)
        network, load = self._ready(case)
        pictures = load.pictures()
        step = make_step(network, case.mode, pictures.rows())
        checks = self._check(case, step(pictures.rows()), wanted)
        pictures.draw(step, num_steps=PROFILED_STEPS)
        self._reset_peak()
        times = self.timer.measure(lambda: pictures.draw(step), warm_up=0)
        timed = self._timed(network, times, Amount.of(network.family, pictures.rows(), steps=load.num_steps))
        gaps = measure_gaps(self.timer, lambda: pictures.draw(step, num_steps=PROFILED_STEPS))
        return measured(case, replace(timed, gaps=gaps), checks)

    def prefill(self, case: Case) -> Outcome:
        """Time the reading of all branches' prompts, packed."""
        network, load = self._ready(case)
        prompts = load.prompts
        amount = Amount(
            rows=len(prompts),
            tokens=sum(block.num_tokens for prompt in prompts for block in prompt.blocks),
            operations=network.family.flops.prefill(prompts, [None] * len(prompts)),
        )
        return self._call(case, network, load.prefill, amount)

    def encode(self, case: Case) -> Outcome:
        """Time the encoding of references, preparing pixels included."""
        network, load = self._ready(case)
        latents = load.encode()
        amount = Amount(
            rows=len(latents),
            tokens=sum(map(_num_patches, latents)),
            operations=network.family.flops.encode(latents),
        )
        return self._call(case, network, load.encode, amount)

    def decode(self, case: Case) -> Outcome:
        """Time the decoding of the pictures."""
        network, load = self._ready(case)
        latents = [network.family.noise(each.plan.size, self.seed) for each in load.requests]
        amount = Amount(
            rows=len(latents),
            tokens=sum(map(_num_patches, latents)),
            operations=network.family.flops.decode(latents),
        )
        return self._call(case, network, partial(network.family.decode, latents), amount)

    def kept(self, case: Case) -> Outcome:
        """Draw with keys and values of the prompt kept, and with prefill at every step."""
        network, load = self._ready(case)
        pictures = load.pictures()
        step = make_step(network, case.mode, pictures.rows())

        def read_again(taken: int) -> None:
            if taken:
                for easel, contexts in zip(pictures.easels, load.contexts(), strict=True):
                    easel.contexts = contexts

        ways: Ways = {
            "kept": lambda: pictures.draw(step),
            "prefill every step": lambda: pictures.draw(step, before_step=read_again),
        }
        kept, read = (way() for way in ways.values())
        agree = compared(f"{case.name} against prefill every step", kept, read, AGREE)
        amount = Amount.of(network.family, pictures.rows(), steps=load.num_steps)
        return self._against(case, network, ways, amount, agree)

    def dense(self, case: Case) -> Outcome:
        """Take a step with the middle pairs bridged, and one with all of them, from the same weights."""
        network, load = self._ready(case)
        network.family.use_runner(run_as_is)
        dense = densely_bridged(network.family, self.networks.config("hbridge"), self.seed)
        rows = load.pictures().rows()
        dense_rows = Workload(dense, case, self.scale, self.seed).pictures().rows()
        ways: Ways = {
            "bridged": lambda: network.family.velocity(rows),
            "every pair bridged": lambda: dense.velocity(dense_rows),
        }
        amount = Amount.of(network.family, rows)
        apart = distance(*(way() for way in ways.values()))
        differ = Check(
            name=f"{case.name}: further bridges are more work and change the result",
            error=apart,
            bound=0.0,
            passed=apart > 0 and dense.flops.velocity(dense_rows) > amount.operations,
        )
        return self._against(case, network, ways, amount, differ)

    def _against(self, case: Case, network: Network, ways: Ways, amount: "Amount", check: Check) -> Outcome:
        """Time two ways in turns, the first of which is ours."""
        self._reset_peak()
        ours, theirs = self.timer.in_turns(ways).values()
        timed = replace(
            self._timed(network, ours, amount),
            baseline_name=list(ways)[1],
            baseline=theirs,
            baseline_over_work=theirs.median / ours.median,
            error=check.error,
        )
        return measured(case, timed, (check,))

    def _call(self, case: Case, network: Network, work: Callable[[], object], amount: "Amount") -> Outcome:
        work()
        self._reset_peak()
        return measured(case, self._timed(network, self.timer.measure(work, warm_up=1), amount))

    def _ready(self, case: Case) -> tuple[Network, Workload]:
        assert case.model, "only checks and ceilings are of no model"
        network = self.networks.get(case.model, case.precision)
        return network, Workload(network.family, case, self.scale, self.seed)

    def _reference(self, case: Case) -> list[Tensor] | None:
        """Return the velocities of the eager step in the plan's own precision; None for that one itself."""
        if case.mode == "eager" and case.precision == self.scale.precision:
            return None
        plain = replace(case, kind="step", mode="eager", precision=self.scale.precision, expected_seconds=0)
        if plain not in self._references:
            network, load = self._ready(plain)
            rows = load.pictures().rows()
            velocities = make_step(network, "eager", rows)(rows)
            self._references[plain] = [each.cpu() for each in velocities]
        return self._references[plain]

    def _check(
        self, case: Case, velocities: Sequence[Tensor], wanted: Sequence[Tensor] | None
    ) -> tuple[Check, ...]:
        if wanted is None:
            return ()
        name = f"{case.name} against eager {self.scale.precision}"
        return (compared(name, velocities, wanted, BOUNDS[case.precision]),)

    def _timed(self, network: Network, times: Times, amount: "Amount") -> Timed:
        return Timed(
            seconds=times,
            rows=amount.rows,
            tokens=amount.tokens,
            operations=amount.operations,
            operations_per_second=amount.operations / times.median,
            peak_bytes=self._peak_bytes(network),
            weight_bytes=network.weight_bytes,
            backend=network.backend,
        )

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak_bytes(self, network: Network) -> int | None:
        if self.device.type != "cuda":
            return None
        others = self.networks.weight_bytes - network.weight_bytes
        return torch.cuda.max_memory_allocated(self.device) - others


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much work a call is.

    Attributes:
        tokens: Read or made, over all rows.
    """

    rows: int
    tokens: int
    operations: int

    @classmethod
    def of(cls, family: Family, rows: Sequence[Row], *, steps: int = 1) -> "Amount":
        """Return that of so many packed steps."""
        latents = [each for row in rows for each in (row.latent_CYX, *row.references)]
        return cls(
            rows=len(rows),
            tokens=sum(map(_num_patches, latents)),
            operations=steps * family.flops.velocity(rows),
        )


def layer_widths(config: HBridgeConfig) -> list[tuple[int, int]]:
    """Return the inner and outer widths of the large products in a bridged generation layer."""
    gen, und = config.generation, config.understanding
    return [
        (gen.hidden_size, gen.hidden_size),
        (gen.hidden_size, gen.kv_width),
        (gen.hidden_size, gen.ffn_width),
        (gen.ffn_width, gen.hidden_size),
        (gen.hidden_size, und.hidden_size),
        (und.hidden_size, gen.hidden_size),
    ]


def measured(case: Case, timed: Timed, checks: tuple[Check, ...] = ()) -> Outcome:
    """Return what came of a case that was timed."""
    return Outcome(name=case.name, case=case, status="measured", checks=checks, timed=timed)


def _num_patches(latent_CYX: Tensor) -> int:
    return prod(latent_CYX.shape[1:]) // PATCH**2


MEASURES: dict[Kind, Callable[[Bench, Case], Outcome]] = {
    "checks": Bench.checks,
    "ceilings": Bench.ceilings,
    "denoise": Bench.denoise,
    "step": Bench.step,
    "prefill": Bench.prefill,
    "encode": Bench.encode,
    "decode": Bench.decode,
    "kept": Bench.kept,
    "dense": Bench.dense,
}
