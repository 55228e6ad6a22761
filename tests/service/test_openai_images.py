from typing import Any

import pytest
from PIL import Image

from model.drawing import Drawing
from model.pipeline import draw
from service.answering import images_answer
from service.engine.job import Finished, Job, LoadedModel, Preview, Timings
from service.openai_images import ImagesNarration, images_response
from service.schemas.body import validate
from service.schemas.openai_images import CompletedImage, ImagesGenerationsRequest, PartialImage

ASKED = validate(ImagesGenerationsRequest, {"prompt": "a", "n": 2, "user": "u"})


@pytest.fixture
def job() -> Job:
    return Job(id="a", work=Drawing(prompt="a", n=2, seed=1, num_inference_steps=1))


@pytest.fixture
def finished(loaded: LoadedModel, job: Job) -> Finished:
    assert isinstance(job.work, Drawing)
    return Finished(result=draw(loaded.family, job.work), timings=Timings(queue_seconds=0.0))


def test_nothing_of_the_native_answer_is_lost(web: Any, job: Job, finished: Finished) -> None:
    native = images_answer(web.app.state.service, job, ASKED, finished)
    told = images_response(native, ASKED)
    for name in ("id", "created", "model", "metadata", "warnings", "timings", "receipt"):
        assert getattr(told, name) == getattr(native, name)
    assert [(each.b64_json, each.seed) for each in told.data] == [
        (each.b64_json, each.seed) for each in native.images
    ]


def test_previews_are_counted_as_they_come_and_pictures_one_by_one(
    web: Any, job: Job, finished: Finished
) -> None:
    narration = ImagesNarration(web.app.state.service, job, ASKED)
    looks = [Preview(index=index, images=(Image.new("RGB", (8, 8)),) * 2) for index in (1, 5)]
    told = [message for event in (*looks, finished) for message in narration(event)]
    assert [message.name for message in told] == [getattr(message.data, "type", "") for message in told]
    partial = [each.data for each in told if isinstance(each.data, PartialImage)]
    places = [(each.partial_image_index, each.image_index) for each in partial]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    completed = [each.data for each in told if isinstance(each.data, CompletedImage)]
    assert [(each.image_index, each.seed, each.safety_identifier) for each in completed] == [
        (0, 1, "u"),
        (1, 2, "u"),
    ]
