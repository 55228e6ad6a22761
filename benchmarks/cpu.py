"""Latency of the three tasks, and what the design saves, on this processor.

Run by `make bench`; writes benchmarks/results/cpu.json.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clock import against, seconds
from benchmarks.local_server import LocalServer
from benchmarks.sizes import MEDIUM
from model.checkpoint import build_random, load, read_config
from model.drawing import Drawing
from model.family import Family, Row
from model.flow import Walk, time_grid
from model.pipeline import answer, draw
from model.prompt import Prompt, Turn
from model.question import Question
from model.registry import resolve
from training.record import write_record

OUTPUT = Path("benchmarks/results/cpu.json")
MODEL = "hbridge-tiny"
PROMPT = "a red circle to the left of a small blue square on a green background"
screen = Console(stderr=True)


def main() -> None:
    """Measure everything and write the record."""
    family = load(MODEL)
    figures: dict[str, object] = {}
    for name, measure in (
        ("ready", measure_ready),
        ("tasks", lambda: measure_tasks(family)),
        ("law_2", lambda: count_work(family)),
        ("tiny", lambda: measure_design(read_config(resolve(MODEL)), tokens=24, side=8, steps=20)),
        ("medium", lambda: measure_design(MEDIUM, tokens=128, side=64, steps=4)),
    ):
        with screen.status(name):
            figures[name] = measure()
    write_record(OUTPUT, "make bench", figures)
    screen.print(f"written to {OUTPUT}")


def measure_ready() -> dict[str, float]:
    """Return the seconds from starting `hbridge serve` to its first ready answer.

    Its first start on a machine measures what steps cost; the others find that on disk.
    """
    starts = {"first": "process", "process": "process", "inline": "inline"}
    taken = {}
    with TemporaryDirectory() as cache:
        for name, engine in starts.items():
            begun = time.perf_counter()
            with LocalServer(HBRIDGE_ENGINE=engine, HBRIDGE_CACHE_DIR=cache):
                taken[name] = round(time.perf_counter() - begun, 2)
    return taken


def measure_tasks(family: Family) -> dict[str, object]:
    """Time the three tasks with their default settings; and generate against its count of operations."""
    picture = draw(family, Drawing(prompt=PROMPT, seed=1)).images[0]
    generate = Drawing(prompt=PROMPT, seed=1)
    edit = Drawing(prompt="make the square yellow", images=(picture,), seed=1)
    question = Question(turns=(Turn("user", (picture, "how many shapes are there?")),), max_tokens=8)
    timed = {
        "generate": seconds(lambda: draw(family, generate)),
        "edit": seconds(lambda: draw(family, edit)),
        "understand": seconds(lambda: answer(family, question)),
    }
    with FlopCounterMode(display=False) as counter:
        draw(family, generate)
    operations, rate = counter.get_total_flops(), matrix_rate()
    floor = operations / rate
    return {
        **timed,
        "generate_operations": operations,
        "matrix_operations_per_second": round(rate),
        "generate_floor_seconds": round(floor, 5),
        "generate_median_over_floor": round(timed["generate"]["median"] / floor, 1),
    }


def matrix_rate(side: int = 1024) -> float:
    """Return the float32 operations per second of one large matrix product."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / seconds(lambda: a @ b, repeats=9)["median"]


def count_work(family: Family) -> dict[str, object]:
    """Count network calls and prefilled tokens of one request, by its number of steps: law 2."""
    counted = {}
    for steps in (1, 10, 20):
        usage = draw(family, Drawing(prompt=PROMPT, seed=1, num_inference_steps=steps)).usage
        counted[str(steps)] = {
            "prefilled_tokens": usage.prefilled_tokens,
            "network_calls": usage.network_calls,
        }
    return {"by_steps": counted}


def measure_design(config: dict[str, Any], *, tokens: int, side: int, steps: int) -> dict[str, object]:
    """Compare K/V kept with prefill at every step, and the bridged middle with all layers bridged.

    Args:
        config: Of the checkpoint; weights are random.
        tokens: Prompt tokens of each of the two branches.
        side: Latent pixels on a side.
        steps: Flow steps.
    """
    config = {**config, "vae": None}
    bridged = build_random(config, seed=0)
    dense = build_random({**config, "skip_first": 0, "skip_last": 0}, seed=0)
    prompts = [Prompt.of_tokens(tuple(range(20 + i, 20 + i + tokens)), task="generate") for i in range(2)]
    once, every = _walker(bridged, prompts, side, steps)
    step, dense_step = _stepper(bridged, prompts, side), _stepper(dense, prompts, side)
    return {
        "image_tokens": (side // 2) ** 2,
        "prompt_tokens": tokens,
        "steps": steps,
        "parameters": sum(p.numel() for p in bridged.module.parameters()),
        "kept_against_prefill_every_step": against(once, every),
        "bridged_against_dense_step": against(step, dense_step),
        "bridged_over_dense_operations": round(_operations(step) / _operations(dense_step), 4),
    }


def _walker(
    family: Family, prompts: Sequence[Prompt], side: int, steps: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    noise = torch.randn(family.config.generation.in_channels, side, side)
    times = time_grid(steps, side, side, name=family.capabilities.grid)

    def walk(*, every: bool) -> None:
        contexts = family.prefill(prompts)
        step = Walk(noise, times)
        while not step.is_done:
            if every and step.index:
                contexts = family.prefill(prompts)
            full, empty = family.velocity(
                [Row(latent_CYX=step.latent, time=step.time, context=context) for context in contexts]
            )
            step.advance(empty + 3 * (full - empty))

    return lambda: walk(every=False), lambda: walk(every=True)


def _stepper(family: Family, prompts: Sequence[Prompt], side: int) -> Callable[[], object]:
    contexts = family.prefill(prompts)
    noise = torch.randn(family.config.generation.in_channels, side, side)
    rows = [Row(latent_CYX=noise, time=0.5, context=context) for context in contexts]
    return lambda: family.velocity(rows)


def _operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
