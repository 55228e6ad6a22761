"""What the engine gives and what it takes, as ratios to the bare pipeline of the same run.

Run by `hbridge bench engine`; writes benchmarks/results/engine-cpu.json. Whatever is compared runs in turns,
and ratios are of the same turn. Unless the prefix cache is what is measured, it keeps nothing for later, so
that it flatters nobody.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import httpx
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.apart import Bare, aside, pipeline
from benchmarks.bookkeeping import profile_bookkeeping
from benchmarks.cancels import measure_cancels
from benchmarks.clock import in_turns, quantile, ratios, spread
from benchmarks.cpu import matrix_rate
from benchmarks.driver import CACHE_BYTES, Driver, Taken
from benchmarks.figure import Figure
from benchmarks.first_token import measure_first_token
from benchmarks.local_server import LocalServer
from benchmarks.workload import Work, Workload
from model.drawing import Drawing, plan_drawing
from model.family import Family, Row
from service.engine.cost import STAGES, Stage
from service.engine.job import Finished, LoadedModel
from service.loading import load_model
from service.settings import Settings

NUM_TOGETHER = 8
ROWS = (1, 2, 4, 8, 16)
PROFILED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often everything is measured."""

    mixed: int = 9
    plain: int = 3
    drawings: int = 40
    questions: int = 100
    answers: int = 15
    first_tokens: int = 100
    edits: int = 20
    cancels: int = 100


def measure_engine(settings: Settings, counts: Counts) -> Iterator[Figure]:
    """Measure everything, one figure after another."""
    model = aside(lambda: load_model(settings))
    workload = Workload(model.card.capabilities)
    plain: list[Work] = [workload.generation() for _ in range(NUM_TOGETHER)]
    step = aside(lambda: profile_step(model.family))
    for name, works, repeats in (("mixed", workload.mixed(), counts.mixed), ("plain", plain, counts.plain)):
        figure = measure_packing(model, name, works, repeats=repeats)
        yield replace(figure, details={**figure.details, "step": step})
    yield measure_alone(model, "generate", workload.generation(), repeats=counts.drawings)
    yield measure_alone(model, "edit", workload.edit(), repeats=counts.drawings)
    yield measure_alone(model, "understand", workload.question(), repeats=counts.questions)
    with (
        pipeline(settings) as bare,
        LocalServer(HBRIDGE_PROVENANCE="off") as bare_server,
        LocalServer() as signing_server,
        httpx.Client(base_url=bare_server.url, timeout=120) as client,
        httpx.Client(base_url=signing_server.url, timeout=120) as signed,
    ):
        yield measure_wire(bare, client, signed, workload, counts.answers)
    yield measure_first_token(model, num_questions=counts.first_tokens)
    yield measure_prefixes(model, workload, counts.edits)
    yield measure_cancels(model, num_tries=counts.cancels)


def measure_packing(model: LoadedModel, name: str, works: Sequence[Work], *, repeats: int) -> Figure:
    """Compare requests together with the same ones after each other, in throughput."""
    stages: dict[str, list[dict[Stage, float]]] = {"together": [], "one_by_one": []}
    with Driver(model) as driver:

        def noted(way: str, run: Callable[[], object]) -> None:
            driver.steps.clear()
            run()
            stages[way].append(_by_stage(driver.steps))

        taken = in_turns(
            {
                "together": partial(noted, "together", lambda: driver.run(*works)),
                "one_by_one": partial(noted, "one_by_one", lambda: [driver.run(work) for work in works]),
                "pipeline": lambda: [driver.run_bare(work) for work in works],
            },
            repeats=repeats,
        )
    gains = ratios(taken["one_by_one"], taken["together"])
    return Figure(
        name=f"packed_{name}",
        title=f"{len(works)} {name} requests together over one by one, throughput",
        value=statistics.median(gains),
        wanted="at least",
        bar=2.0,
        details={
            "spread": spread(gains),
            "over_pipeline": spread(ratios(taken["pipeline"], taken["together"])),
            "seconds": {each: spread(values) for each, values in taken.items()},
            "seconds_by_stage": {
                way: {
                    stage: round(statistics.median(each[stage] for each in turns[1:]), 4) for stage in STAGES
                }
                for way, turns in stages.items()
            },
        },
    )


def _by_stage(steps: Sequence[Taken]) -> dict[Stage, float]:
    seconds: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
    for step in steps:
        seconds[step.stage] += step.seconds
    return seconds


@torch.inference_mode()
def profile_step(family: Family) -> dict[str, object]:
    """Time one packed step by its number of rows: what packing can save is what a row costs less in it.

    Rows are of generations with all their branches. The floor of a row is its operations at the rate of one
    large matrix product.
    """
    plan = plan_drawing(family, Drawing(prompt="a red circle", seed=0))
    contexts = family.prefill(list(plan.prompts.values()))
    num_branches = len(contexts)
    latents = [family.noise(plan.size, seed) for seed in range(ROWS[-1])]
    rows = [Row(latent_CYX=each, time=0.5, context=context) for each in latents for context in contexts]
    ways = {str(count): partial(family.velocity, rows[:count]) for count in ROWS}
    medians = {name: statistics.median(each) for name, each in in_turns(ways).items()}
    most = medians[str(ROWS[-1])]
    with FlopCounterMode(display=False) as counter:
        family.velocity(rows[:1])
    return {
        "seconds_by_rows": {name: round(each, 5) for name, each in medians.items()},
        "seconds_of_a_further_row": round((most - medians["1"]) / (ROWS[-1] - 1), 5),
        "floor_seconds_of_a_row": round(int(counter.get_total_flops()) / matrix_rate(), 5),
        "most_that_packing_gains": round(ROWS[-1] / num_branches * medians[str(num_branches)] / most, 3),
    }


def measure_alone(model: LoadedModel, task: str, work: Work, *, repeats: int) -> Figure:
    """Compare one request through an engine that has nothing else to do with the bare pipeline.

    Both on the engine's thread, in turns, and who begins a turn changes.
    """
    engine: list[float] = []
    pipeline: list[float] = []
    on_device: list[float] = []
    with Driver(model) as driver:

        def through_engine() -> None:
            begun = perf_counter()
            (ended,) = driver.run(work)
            engine.append(perf_counter() - begun)
            on_device.append(ended.timings.device_seconds)

        ways: list[Callable[[], None]] = [
            through_engine,
            lambda: pipeline.append(driver.run_bare(work)),
        ]
        for _ in range(repeats + 1):
            for way in ways:
                way()
            ways.reverse()
        bookkeeping = profile_bookkeeping(driver, work, repeats=min(repeats, PROFILED))
    costs = ratios(engine[1:], pipeline[1:])
    return Figure(
        name=f"alone_{task}",
        title=f"one {task} in the engine over the pipeline, time",
        value=statistics.median(costs),
        wanted="at most",
        bar=1.03,
        details={
            "spread": spread(costs),
            "seconds": {"engine": spread(engine[1:]), "pipeline": spread(pipeline[1:])},
            "beyond_device_seconds": spread(_differences(engine, on_device)[1:], digits=5),
            "bookkeeping": bookkeeping,
        },
    )


def measure_wire(
    bare: Bare, plain: httpx.Client, signed: httpx.Client, workload: Workload, repeats: int
) -> Figure:
    """Take what a picture over HTTP takes beyond the time of its steps, each with words new to the server.

    The bar is for HTTP and engine: a server that neither marks nor signs. Beside it, one that does both; an
    empty request, which nothing over HTTP can be below; and the whole time less the bare pipeline's in
    another process, which differs from process to process by more than what is asked.
    """
    drawings = [workload.generation(negative_prompt=f"blurry {i}") for i in range(repeats + 1)]
    clients = {"plain": plain, "signed": signed}
    coming = {name: iter(drawings) for name in (*clients, "pipeline")}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}

    def post(name: str) -> None:
        response = clients[name].post("/v1/generate", json=_body(next(coming[name])))
        answers[name].append(response.raise_for_status().json())

    ways: dict[str, Callable[[], object]] = {name: partial(post, name) for name in clients}
    ways["pipeline"] = lambda: bare(next(coming["pipeline"]))
    ways["empty"] = lambda: plain.get("/livez").raise_for_status()
    taken = in_turns(ways, repeats=repeats)
    beyond = {
        name: _differences(taken[name], [each["usage"]["device_seconds"] for each in given[1:]])
        for name, given in answers.items()
    }
    timings = [each["timings"] for each in answers["plain"][1:]]
    on_device = [each["usage"]["device_seconds"] for each in answers["plain"][1:]]
    totals = [each["total"] for each in timings]
    return Figure(
        name="wire",
        title="one generate over HTTP, unsigned, beyond its steps, median, s",
        value=statistics.median(beyond["plain"]),
        wanted="at most",
        bar=0.010,
        details={
            "spread": spread(beyond["plain"], digits=5),
            "signed": spread(beyond["signed"], digits=5),
            "of_which": {
                "engine_between_steps": spread(_differences(totals, on_device), digits=5),
                "an_empty_request": spread(taken["empty"], digits=5),
            },
            "beyond_pipeline_seconds": spread(_differences(taken["plain"], taken["pipeline"])),
            "seconds": {each: spread(values) for each, values in taken.items()},
            "server_seconds": {
                stage: spread([each[stage] for each in timings], digits=5)
                for stage in ("queue", "prefill", "denoise", "decode", "total")
            },
        },
    )


def _body(drawing: Drawing) -> dict[str, object]:
    return {"prompt": drawing.prompt, "negative_prompt": drawing.negative_prompt, "seed": drawing.seed}


def measure_prefixes(model: LoadedModel, workload: Workload, num_edits: int) -> Figure:
    """Edit one image again and again, with a cache and without; compare the time of the prefill stage."""
    first = workload.edit(num_inference_steps=1)
    edits = [replace(first, prompt=workload.edit().prompt) for _ in range(num_edits)]
    stages: dict[str, list[Finished]] = {"kept": [], "dropped": []}
    with Driver(model, max_cache_bytes=CACHE_BYTES) as keeps, Driver(model) as drops:
        for edit in (first, *edits):
            for name, driver in (("kept", keeps), ("dropped", drops)):
                stages[name] += driver.run(edit)
    again = {name: ended[1:] for name, ended in stages.items()}
    taken = {name: [each.timings.prefill_seconds for each in ended] for name, ended in again.items()}
    saved = [1 - each for each in ratios(taken["kept"], taken["dropped"])]
    return Figure(
        name="prefix_cache",
        title="prefill of a further edit that the caches save, share",
        value=statistics.median(saved),
        wanted="at least",
        bar=0.3,
        details={
            "spread": spread(saved),
            "seconds": {name: spread(values, digits=5) for name, values in taken.items()},
            "prefilled_tokens": {
                name: quantile([each.result.usage.prefilled_tokens for each in ended], 0.5)
                for name, ended in again.items()
            },
        },
    )


def _differences(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(above, below, strict=True)]
