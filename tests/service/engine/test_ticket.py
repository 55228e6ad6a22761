from model.prompt import Turn
from model.question import Question
from service.engine.course import AnswerCourse
from service.engine.job import Job
from service.engine.scheduler import Flow, Standing
from service.engine.stopwatch import Stopwatch
from service.engine.ticket import Ticket
from tests.service.engine.toy import Toy


def test_a_job_has_begun_once_it_left_the_queue() -> None:
    question = Question(turns=(Turn("user", ("what?",)),), max_tokens=3)
    ticket = Ticket(
        job=Job(id="a", work=question),
        emit=lambda event: None,
        course=AnswerCourse(Toy(), question),
        standing=Standing(job_id="a", flow=Flow("", "interactive", 1.0), arrived=0.0),
        needed_seconds=1.0,
        held_bytes=0,
        watch=Stopwatch(),
    )
    assert not ticket.has_begun
    ticket.watch.enter("prefill")
    assert ticket.has_begun
