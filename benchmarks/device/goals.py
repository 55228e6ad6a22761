"""What is wanted of one H100, beside what was measured."""

from collections.abc import Sequence

from benchmarks.device.plan import Model, Size
from benchmarks.device.record import Goal, Outcome, best_rate

WANTED: tuple[tuple[Model, int, float], ...] = (("hbridge", 28, 3.3), ("omnigen2", 50, 5.5))
"""Model, steps and seconds of a picture of 1024x1024 with two guidance branches in bfloat16."""
SIDE = 1024
MAX_GAPS = 0.03


def weigh(outcomes: Sequence[Outcome], size: Size) -> list[Goal]:
    """Return all goals with the fastest measured case of each; toy runs have none."""
    if size == "toy":
        return []
    goals = []
    for model, steps, at_most in WANTED:
        drawn = [
            each
            for each in outcomes
            if each.timed
            and (each.case.kind, each.case.model, each.case.side) == ("denoise", model, SIDE)
            and each.case.precision == "bfloat16"
            and all(check.passed for check in each.checks)
        ]
        title = f"{model} {SIDE}x{SIDE}, {steps} steps, two branches, bfloat16"
        fastest = min(drawn, key=_seconds, default=None)
        rate = best_rate(outcomes, "matmul bfloat16")
        if fastest is None or fastest.timed is None:
            goals += [
                Goal(title=title, unit="s", at_most=at_most),
                Goal(title=f"{title}: gaps between kernels", unit="share", at_most=MAX_GAPS),
            ]
            continue
        timed = fastest.timed
        goals += [
            Goal(
                title=title,
                unit="s",
                at_most=at_most,
                case=fastest.name,
                measured=timed.seconds.median,
                floor_seconds=timed.operations / rate if rate else None,
            ),
            Goal(
                title=f"{title}: gaps between kernels",
                unit="share",
                at_most=MAX_GAPS,
                case=fastest.name,
                measured=timed.gaps.share if timed.gaps else None,
            ),
        ]
    return goals


def _seconds(outcome: Outcome) -> float:
    assert outcome.timed, "only what was timed is compared"
    return outcome.timed.seconds.median
