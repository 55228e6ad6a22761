import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from model.drawing import Drawing
from model.images import open_image
from model.pipeline import draw
from service.about import About
from service.answering import given_files, image_file, image_text, images_answer
from service.app import create_app
from service.deps import Service
from service.engine.client import Client
from service.engine.job import Finished, Job, LoadedModel, Timings
from service.provenance import Provenance
from service.schemas.drawing import EditRequest, GenerateRequest
from service.settings import Settings
from tests.service.local_client import local_client


@pytest.fixture
def service(web: Any) -> Service:
    """The parts of a running app, which signs."""
    return replace(web.app.state.service, provenance=Provenance(Settings()))


def test_an_answer_says_which_weights_made_it_and_how(service: Service, loaded: LoadedModel) -> None:
    asked = GenerateRequest(prompt="a", n=2, seed=4, metadata={"a": "b"}, output_format="webp")
    job = Job(id="req-1", work=Drawing(prompt="a", n=2, seed=4, num_inference_steps=2))
    drawn = draw(loaded.family, job.work)
    timings = Timings(
        queue_seconds=1, prefill_seconds=2, denoise_seconds=3, decode_seconds=4, device_seconds=5
    )
    answer = images_answer(service, job, asked, Finished(result=drawn, timings=timings))
    assert answer.receipt.weights_sha256 == loaded.card.weights_hash
    assert answer.receipt.load_format == "auto"
    assert (answer.receipt.seed, answer.receipt.n, answer.receipt.times) == (4, 2, list(drawn.times))
    assert [image.seed for image in answer.images] == [4, 5]
    assert {image.mime_type for image in answer.images} == {"image/webp"}
    assert (answer.timings.total, answer.usage.device_seconds) == (10, 5)
    assert (answer.id, answer.metadata) == ("req-1", {"a": "b"})


def test_files_are_of_the_format_that_was_asked_for(service: Service, loaded: LoadedModel) -> None:
    job = Job(id="req-1", work=Drawing(prompt="a", num_inference_steps=1))
    (image,) = draw(loaded.family, job.work).images
    asked = GenerateRequest(prompt="a", output_format="png")
    file = image_file(service, job, asked, image)
    assert file.startswith(b"\x89PNG")
    assert open_image(base64.b64decode(image_text(service, job, asked, image))).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "provenance", [Settings(), Settings(provenance="off")], ids=lambda each: each.provenance
)
def test_a_receipt_says_what_the_file_has(
    service: Service, loaded: LoadedModel, provenance: Settings
) -> None:
    service = replace(service, provenance=Provenance(provenance))
    job = Job(id="req-1", work=Drawing(prompt="a", num_inference_steps=1))
    drawn = draw(loaded.family, job.work)
    asked = GenerateRequest(prompt="a")
    answer = images_answer(service, job, asked, Finished(result=drawn, timings=Timings(queue_seconds=0)))
    said = answer.receipt.provenance
    file = base64.b64decode(answer.images[0].b64_json)
    found = service.provenance.verify(file, open_image(file))
    assert said.content_credentials == found.content_credentials.present == (provenance.provenance == "on")
    assert said.watermark == found.watermark.present
    assert bool(said.reasons) == (not said.content_credentials or not said.watermark)


def test_the_files_of_an_edit_are_found_as_they_came(png: Callable[..., bytes]) -> None:
    text = base64.b64encode(png()).decode()
    for asked in (EditRequest(prompt="a", image=png()), EditRequest(prompt="a", images=[text])):
        assert given_files(asked) == [png()]
    assert given_files(EditRequest(prompt="a", image="https://example.org/a.png")) == [None]
    assert given_files(GenerateRequest(prompt="a")) == []


def test_an_edit_names_its_image(service: Service, png: Callable[..., bytes]) -> None:
    signed = image_file(
        service,
        Job(id="a", work=Drawing(prompt="a")),
        GenerateRequest(prompt="a"),
        Image.new("RGB", (32, 32)),
    )
    edited = Image.new("RGB", (32, 32), "blue")
    for file, has_credentials in ((signed, True), (png(), False)):
        job = Job(id="b", work=Drawing(prompt="a", images=(open_image(file),)))
        made = image_file(service, job, EditRequest(prompt="a", image=file), edited)
        statement = service.provenance.verify(made, edited).content_credentials.statement
        assert statement is not None
        assert statement.source_types == ["compositeWithTrainedAlgorithmicMedia"]
        assert [each.has_credentials for each in statement.ingredients] == [has_credentials]


def test_words_that_the_model_never_saw_are_warned_of(
    loaded: LoadedModel, make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> None:
    card = replace(loaded.card, about=About(words=frozenset({"a", "star"})))
    client = make_client(replace(loaded, card=card))
    body = {"prompt": "A star, a dragon", "negative_prompt": "castle", "num_inference_steps": 1}
    with local_client(create_app(Settings(), client)) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        (warning,) = web.post("/v1/generate", json=body).json()["warnings"]
        assert "never saw dragon, castle;" in warning
        assert web.post("/v1/generate", json={"prompt": "a star"}).json()["warnings"] == []
