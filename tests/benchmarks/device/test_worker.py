import subprocess
import sys
import threading
from multiprocessing import Pipe
from typing import Any

import pytest
import torch

from benchmarks.device.networks import Unavailable
from benchmarks.device.plan import Case
from benchmarks.device.record import Outcome
from benchmarks.device.worker import NEEDED, answer_cases, attempt, describe, missing, told, work

CASE = Case(kind="step", model="hbridge", side=32)
FOREIGN = ("fastapi", "pydantic", "uvicorn", "sqlalchemy", "httpx_sse", "c2pa", "cachetools", "zmq")


def test_what_a_case_raises_is_an_outcome() -> None:
    def fail(case: Case) -> Outcome:
        raise ValueError("too much\nof it")

    def cannot(case: Case) -> Outcome:
        raise Unavailable("no such device")

    failed, skipped = attempt(fail, CASE), attempt(cannot, CASE)
    assert (failed.status, failed.reason) == ("failed", "ValueError: too much")
    assert (skipped.status, skipped.reason) == ("skipped", "no such device")
    assert failed.name == CASE.name
    assert failed.seconds >= 0


def test_cases_are_answered_until_the_line_is_closed() -> None:
    class Networks:
        cleared = 0

        def clear(self) -> None:
            self.cleared += 1

    class Bench:
        networks = Networks()

        def measure(self, case: Case) -> Outcome:
            if case.kind == "dense":
                raise torch.OutOfMemoryError("no room")
            return Outcome(name=case.name, case=case, status="measured")

    bench: Any = Bench()
    ours, theirs = Pipe()
    thread = threading.Thread(target=answer_cases, args=(theirs, torch.device("cpu"), lambda: bench))
    thread.start()
    statuses = []
    for kind in ("step", "dense", "step"):
        ours.send(Case(kind=kind, model="hbridge", side=32))  # type: ignore[arg-type]
        statuses.append(ours.recv().outcome.status)
    ours.close()
    thread.join(10)
    assert statuses == ["measured", "failed", "measured"]
    assert bench.networks.cleared == 1
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("size", "device", "said"),
    [("full", "cpu", "no CUDA device is here"), ("toy", "cuda", "device cuda is not usable here")],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_what_cannot_be_measured_here_is_said_before_the_first_case(
    size: Any, device: str, said: str
) -> None:
    ours, theirs = Pipe()
    ours.send("who are you?")
    work(theirs, size, device, 0, "command")
    assert said in ours.recv().problem


def test_packages_that_are_missing_are_named() -> None:
    assert missing(NEEDED) == ""
    assert missing(("torch", "no_such_package", "nor_this")) == (
        "no_such_package, nor_this must be installed to measure"
    )


def test_an_error_is_told_in_a_line() -> None:
    assert told(KeyError("a")) == "KeyError: 'a'"


def test_a_processor_is_described_without_what_only_cards_have() -> None:
    described = describe(torch.device("cpu"))
    assert described.kind == "cpu"
    assert described.memory_bytes is None


@pytest.mark.slow
def test_measuring_needs_none_of_the_packages_of_the_service() -> None:
    program = (
        "import sys\n"
        f"for name in {FOREIGN!r}: sys.modules[name] = None\n"
        "import benchmarks.gpu\n"
        "assert 'torch' not in sys.modules, 'who keeps the time starts at once'\n"
        "import benchmarks.device.measures, training.record\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
