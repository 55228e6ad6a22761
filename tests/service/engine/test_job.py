from PIL import Image

from model.drawing import Drawing
from model.prompt import Turn
from model.question import Question
from service.engine.job import Job


def test_a_jobs_task_follows_from_its_work() -> None:
    image = Image.new("RGB", (8, 8))
    assert Job(id="a", work=Drawing(prompt="a")).task == "generate"
    assert Job(id="a", work=Drawing(prompt="a", images=(image,))).task == "edit"
    assert Job(id="a", work=Question(turns=(Turn("user", ("a",)),))).task == "understand"
