"""Whether a cancelled job leaves within one step, and takes along what it held."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event as Signal

from benchmarks.driver import PATIENCE_SECONDS, Driver, to_job
from benchmarks.figure import Figure
from benchmarks.workload import Workload
from model.request import Progress
from service.engine.job import Event, LoadedModel

NUM_STEPS = 20
LAST_STEP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What was seen of one cancel.

    Attributes:
        was_shared: The step before had the rows of both jobs.
        num_more_steps: Steps with the job's rows that ended after `cancel` had returned.
        num_running: Jobs in the engine two steps later, where the other one is left.
        num_cached_tokens: Of its prompt, remembered by an engine that keeps only what is in use.
    """

    was_shared: bool
    num_more_steps: int
    num_running: int
    num_cached_tokens: int

    @property
    def has_let_go(self) -> bool:
        """Whether it left as it should."""
        return self.num_more_steps <= 1 and self.num_running == 1 and self.num_cached_tokens == 0


def measure_cancels(model: LoadedModel, *, num_tries: int, seed: int = 0) -> Figure:
    """Cancel one of two jobs in the middle of their steps, again and again."""
    workload = Workload(model.card.capabilities, seed)
    with Driver(model) as driver:
        tries = [try_cancel(driver, workload) for _ in range(num_tries)]
    num_good = sum(each.has_let_go for each in tries)
    return Figure(
        name="cancel",
        title="cancels that freed their rows within one step, share",
        value=num_good / num_tries,
        wanted="at least",
        bar=1.0,
        details={
            "tries": num_tries,
            "good": num_good,
            "in_a_shared_step": sum(each.was_shared for each in tries),
            "with_one_more_step": sum(each.num_more_steps == 1 for each in tries),
            "with_more": sum(each.num_more_steps > 1 for each in tries),
        },
    )


def try_cancel(driver: Driver, workload: Workload) -> Attempt:
    """Cancel a job of an even number of rows at a random moment, beside one of a single row."""
    rng = workload.rng
    stays = to_job(workload.generation(guidance_scale=1.0, num_inference_steps=3 * NUM_STEPS))
    drawing = workload.generation(n=2, num_inference_steps=NUM_STEPS)
    leaves, is_there = to_job(drawing), Signal()
    driver.submit(stays)
    driver.submit(leaves, _when_done(rng.randint(1, LAST_STEP), is_there.set))
    assert is_there.wait(PATIENCE_SECONDS), "it did not come to its step"
    time.sleep(rng.uniform(0, driver.steps[-1].seconds))
    num_before = len(driver.steps)
    driver.engine.cancel(leaves.id)
    cancelled = time.perf_counter()
    _wait_until(lambda: len(driver.steps) >= num_before + 3)
    num_running = driver.engine.num_running
    last = [each.load.rows for each in driver.steps[:num_before] if each.stage == "denoise"][-1]
    more = [each for each in driver.steps[num_before:] if each.ended > cancelled and each.load.rows > 1]
    (again,) = driver.run(replace(drawing, n=1, guidance_scale=1.0, num_inference_steps=1))
    driver.engine.cancel(stays.id)
    _wait_until(lambda: driver.engine.num_running == 0)
    return Attempt(
        was_shared=last > 1 and last % 2 == 1,
        num_more_steps=len(more),
        num_running=num_running,
        num_cached_tokens=again.result.usage.cached_prompt_tokens,
    )


def _when_done(num_steps: int, tell: Callable[[], None]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "denoise" and event.done >= num_steps:
            tell()

    return listen


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while not holds():
        if time.perf_counter() > deadline:
            raise TimeoutError("the engine does not go on")
        time.sleep(0.001)
