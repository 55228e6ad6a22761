"""What a step costs in device-seconds, learnt from the steps that ran.

Knows neither the device nor the model nor where its file lies: who runs the steps measures them and teaches.
"""

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from operator import mul
from pathlib import Path
from typing import Any, Literal, get_args

log = logging.getLogger(__name__)

Stage = Literal["prefill", "denoise", "decode", "answer"]
STAGES: tuple[Stage, ...] = get_args(Stage)

FORMAT = "hbridge-cost-1"
NUM_FEATURES = 5
NUM_SETTLED = 8
NUM_SWEEPS = 8
SETTLED = 1e-3
"""Relative change of a weight below which a sweep is the last."""
FORGETTING = 0.995
RIDGE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a step, or one job in it, gives the device to do; loads add up.

    Attributes:
        tokens: Tokens computed, over all rows.
        pairs: Tokens times the keys that they see, over all rows: the work of attention.
    """

    rows: int = 0
    tokens: int = 0
    pairs: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(
            rows=self.rows + other.rows, tokens=self.tokens + other.tokens, pairs=self.pairs + other.pairs
        )


def describe(load: Load) -> tuple[float, ...]:
    """Return the features of a load, each around one; none falls when the load grows."""
    tokens = load.tokens / 2**10
    return 1.0, float(load.rows), tokens, tokens * math.log2(1 + load.tokens) / 10, load.pairs / 2**20


def _zeros() -> list[float]:
    return [0.0] * NUM_FEATURES


@dataclass(slots=True, kw_only=True)
class Fit:
    """Least squares of one stage with forgetting, kept as its normal equations: moments · weights = targets.

    Errors count relative to the time measured: a short step teaches as much as a long one, and a stall of k
    times the usual has 1/k² of the say. Once settled, they count relative to the prediction where that is
    more, so that a time too short to be true has no more say than any other.

    Weights are never negative and features never fall, so predictions are never negative and never fall when
    a load grows. That is part of what is solved, one weight after the other: where one is held at 0, the
    others make up for it.

    Source: Haykin, Adaptive Filter Theory, the chapter on recursive least squares, for the recursion; Franc,
    Hlaváč and Navara 2005, "Sequential coordinate-wise algorithm for the non-negative least squares problem".
    """

    num_observed: int = 0
    moments: list[list[float]] = field(default_factory=lambda: [_zeros() for _ in range(NUM_FEATURES)])
    targets: list[float] = field(default_factory=_zeros)
    weights: list[float] = field(default_factory=_zeros)

    def predict(self, features: Sequence[float]) -> float:
        """Return the seconds expected."""
        return float(sum(map(mul, self.weights, features)))

    def observe(self, features: Sequence[float], seconds: float) -> None:
        """Learn one measurement."""
        scale = max(seconds, self.predict(features)) if self.num_observed >= NUM_SETTLED else seconds
        scaled = [feature / scale for feature in features]
        for i, row in enumerate(self.moments):
            row[:] = [
                FORGETTING * moment + scaled[i] * other for moment, other in zip(row, scaled, strict=True)
            ]
            row[i] += RIDGE / scale**2
            self.targets[i] = FORGETTING * self.targets[i] + scaled[i] * seconds / scale
        self.num_observed += 1
        for _ in range(NUM_SWEEPS):
            before = self.weights[:]
            for i, row in enumerate(self.moments):
                gap = self.targets[i] - sum(map(mul, row, self.weights))
                self.weights[i] = max(0.0, self.weights[i] + gap / row[i])
            if all(abs(new - old) <= SETTLED * new for new, old in zip(self.weights, before, strict=True)):
                break


def _read(text: str) -> dict[Stage, Fit]:
    """Return stored fits; raise LookupError, TypeError or ValueError when they are not ours, or not whole."""
    stored: Any = json.loads(text)
    if stored["format"] != FORMAT:
        raise ValueError(f"its format is {stored['format']!r}, ours is {FORMAT!r}")
    fits = {stage: Fit(**stored["stages"][stage]) for stage in STAGES}
    for fit in fits.values():
        vectors = (*fit.moments, fit.targets, fit.weights)
        if [len(vector) for vector in vectors] != [NUM_FEATURES] * (NUM_FEATURES + 2):
            raise ValueError("it has another number of features")
        if not all(0 <= number < math.inf for number in chain((fit.num_observed,), *vectors)):
            raise ValueError("a number in it is negative or not finite")
    return fits


class CostModel:
    """Predicts the device-seconds of a step from its stage and load, and learns from every step."""

    def __init__(self) -> None:
        self._fits = {stage: Fit() for stage in STAGES}

    @classmethod
    def from_file(cls, path: Path) -> "CostModel":
        """Return what was learnt before; a file that is not ours, or not whole, is logged and left alone."""
        costs = cls()
        try:
            costs._fits = _read(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            log.info("no costs learnt yet", extra={"path": str(path)})
        except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            log.warning("cost file ignored: %r", error, extra={"path": str(path)})
        return costs

    def to_file(self, path: Path) -> None:
        """Write what was learnt: there as a whole or not at all.

        Raises:
            OSError: It cannot be written; what was there before stays.
        """
        stored = {"format": FORMAT, "stages": {stage: asdict(fit) for stage, fit in self._fits.items()}}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(stored), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def adopt(self, other: "CostModel") -> None:
        """Go on from what another has learnt, and forget what was learnt here."""
        self._fits = other._fits

    def seconds(self, stage: Stage, load: Load) -> float:
        """Return the seconds expected of a step; 0 as long as none of this stage was observed."""
        return self._fits[stage].predict(describe(load))

    def observe(self, stage: Stage, load: Load, seconds: float) -> None:
        """Learn what a step took; a clock too coarse to see it teaches nothing."""
        if 0 < seconds < math.inf:
            self._fits[stage].observe(describe(load), seconds)

    def num_observed(self, stage: Stage) -> int:
        """Return how many steps of a stage it has learnt from."""
        return self._fits[stage].num_observed
