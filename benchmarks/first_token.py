"""How long a question waits for its first token while pictures are always in the making."""

import statistics
import time
from functools import partial
from random import Random

from benchmarks.clock import quantile
from benchmarks.driver import CACHE_BYTES, PATIENCE_SECONDS, Driver, to_job
from benchmarks.figure import Figure
from benchmarks.workload import Workload
from model.drawing import Drawing
from model.question import Question
from model.request import Progress
from service.engine.cost import STAGES
from service.engine.job import Event, Finished, LoadedModel

NUM_GENERATIONS = 8
NUM_WARM_UP = 3
STEPS = 10, 30
MAX_PAUSE_SECONDS = 0.2
ALLOWED_SECONDS = 0.05
"""Beyond one denoise step and one prefill."""


def measure_first_token(model: LoadedModel, *, num_questions: int, seed: int = 0) -> Figure:
    """Ask one question after another, at random moments, beside eight generations; 95th percentile."""
    can = model.card.capabilities
    generations = [partial(any_generation, Workload(can, seed + 1 + i)) for i in range(NUM_GENERATIONS)]
    asked, rng = Workload(can, seed), Random(seed)
    waits = []
    with (
        Driver(model, max_cache_bytes=CACHE_BYTES) as driver,
        driver.kept_busy(generations),
    ):
        for index in range(NUM_WARM_UP + num_questions):
            if index == NUM_WARM_UP:
                driver.steps.clear()
            time.sleep(rng.uniform(0, MAX_PAUSE_SECONDS))
            waits.append(first_token_seconds(driver, asked.question()))
        steps = list(driver.steps)
    waits = waits[NUM_WARM_UP:]
    seconds = {stage: [each.seconds for each in steps if each.stage == stage] for stage in STAGES}
    rows = [each.load.rows for each in steps if each.stage == "denoise"]
    bound = quantile(seconds["denoise"], 0.95) + quantile(seconds["prefill"], 0.5) + ALLOWED_SECONDS
    return Figure(
        name="first_token",
        title=f"first token among {NUM_GENERATIONS} generations, p95, s",
        value=quantile(waits, 0.95),
        wanted="at most",
        bar=bound,
        details={
            "bar_is": "p95 denoise step + median prefill step + 50 ms",
            "questions": num_questions,
            "seconds": _quantiles(waits),
            "step_seconds": {stage: _quantiles(values) for stage, values in seconds.items() if values},
            "rows_of_a_denoise_step": round(statistics.mean(rows), 1),
        },
    )


def any_generation(workload: Workload) -> Drawing:
    """Draw one of 10 to 30 steps, so that they do not all begin and end together."""
    return workload.generation(num_inference_steps=workload.rng.randint(*STEPS))


def first_token_seconds(driver: Driver, question: Question) -> float:
    """Return the time from submission until the first token is told, or the end if that comes sooner."""
    told: list[float] = []

    def listen(event: Event) -> None:
        is_token = isinstance(event, Progress) and event.stage == "answer" and event.done >= 1
        if not told and (is_token or isinstance(event, Finished)):
            told.append(time.perf_counter())

    begun = time.perf_counter()
    driver.submit(to_job(question), listen).result(PATIENCE_SECONDS)
    return told[0] - begun


def _quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{share * 100:.0f}": round(quantile(values, share), 5) for share in (0.5, 0.95, 1.0)}
