from typing import Any

import pytest

from model.drawing import Drawing
from model.prompt import Turn
from model.question import Question
from service.engine.admission import Admission
from service.engine.cost import CostModel, Load, Stage
from service.engine.errors import DeadlineUnreachable, EngineBusy
from service.engine.job import Job
from service.engine.memory import MemoryModel
from service.engine.scheduler import Flow, SchedulerConfig, Standing
from service.engine.stopwatch import Stopwatch
from service.engine.ticket import Ticket

DRAWING = Drawing(prompt="a")
QUESTION = Question(turns=(Turn("user", ("what?",)),), max_tokens=3)
STEP = ("denoise", Load(rows=1), 3)


class Seconds(CostModel):
    """One second a row."""

    def seconds(self, stage: Stage, load: Load) -> float:
        return float(load.rows)


def admission(tickets: dict[str, Ticket], *, max_waiting: int = 2, max_running: int = 2) -> Admission:
    return Admission(
        tickets,
        costs=Seconds(),
        memory=MemoryModel(),
        scheduling=SchedulerConfig(),
        max_waiting=max_waiting,
        max_running=max_running,
        max_bytes=2**30,
    )


def add(
    tickets: dict[str, Ticket],
    *,
    tenant: str = "",
    work: Drawing | Question = DRAWING,
    needed: float = 3.0,
    deadline: float | None = None,
    begun: bool = False,
) -> Ticket:
    course: Any = None
    ticket = Ticket(
        job=Job(id=str(len(tickets)), work=work, tenant=tenant),
        emit=lambda event: None,
        course=course,
        standing=Standing(
            job_id=str(len(tickets)),
            flow=Flow(tenant, "interactive", 1.0),
            arrived=float(len(tickets)),
            deadline=deadline,
        ),
        needed_seconds=needed,
        held_bytes=0,
        watch=Stopwatch(),
    )
    if begun:
        ticket.watch.enter("denoise")
    tickets[ticket.job.id] = ticket
    return ticket


def test_work_costs_what_its_pieces_do() -> None:
    assert admission({}).seconds([STEP, ("decode", Load(rows=2), 1)]) == 5


def test_who_has_begun_goes_on_and_the_others_begin_as_places_are_free() -> None:
    tickets: dict[str, Ticket] = {}
    first, second, third = add(tickets), add(tickets, begun=True), add(tickets)
    assert admission(tickets).eligible() == [second, first]
    assert admission(tickets, max_running=3).eligible() == [second, first, third]


def test_places_go_to_the_flow_that_has_fewest() -> None:
    tickets: dict[str, Ticket] = {}
    add(tickets, tenant="many", begun=True)
    add(tickets, tenant="many")
    other = add(tickets, tenant="few")
    assert admission(tickets).eligible()[-1] is other


def test_a_question_takes_no_drawings_place() -> None:
    tickets: dict[str, Ticket] = {}
    drawings = [add(tickets, begun=True) for _ in range(2)]
    question = add(tickets, work=QUESTION)
    add(tickets)
    assert admission(tickets).eligible() == [*drawings, question]


def test_a_full_queue_refuses_and_says_when_the_first_will_be_done() -> None:
    tickets: dict[str, Ticket] = {}
    for begun in (True, True, False, False):
        add(tickets, begun=begun, needed=2.5)
    looking = admission(tickets)
    with pytest.raises(EngineBusy, match="2 jobs are waiting") as refused:
        looking.check_room(Job(id="x", work=DRAWING))
    assert refused.value.retry_after_seconds >= 3
    looking.check_room(Job(id="x", work=QUESTION))
    del tickets["3"]
    looking.check_room(Job(id="x", work=DRAWING))


def test_what_is_due_earlier_goes_before_and_what_is_due_later_does_not() -> None:
    tickets: dict[str, Ticket] = {}
    early, late = add(tickets, deadline=10.0), add(tickets, deadline=20.0)
    looking = admission(tickets)
    assert looking.expected_seconds(early.standing, 3.0) == pytest.approx(3.0)
    assert looking.expected_seconds(late.standing, 3.0) == pytest.approx(6.0)
    looking.packing = 0.5
    assert looking.expected_seconds(late.standing, 3.0) == pytest.approx(4.5)


def test_a_deadline_that_cannot_be_met_is_refused_with_when_to_come_again() -> None:
    tickets: dict[str, Ticket] = {}
    add(tickets, deadline=1.0, needed=8.0)
    new = Standing(job_id="x", flow=Flow("", "interactive", 1.0), arrived=0.0, deadline=5.0)
    looking = admission(tickets)
    with pytest.raises(DeadlineUnreachable) as refused:
        looking.check_deadline(Job(id="x", work=DRAWING, deadline_seconds=5.0), new, least=2.0)
    assert refused.value.retry_after_seconds >= 4
    looking.check_deadline(Job(id="x", work=DRAWING, deadline_seconds=12.0), new, least=2.0)
    looking.check_deadline(Job(id="x", work=DRAWING), new, least=2.0)
