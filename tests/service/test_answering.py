import base64
from dataclasses import replace

from model.drawing import Drawing
from model.pipeline import draw
from service.about import About
from service.answering import image_file, image_text, images_answer
from service.engine.job import Finished, Job, LoadedModel, Timings
from service.schemas.drawing import GenerateRequest


def test_an_answer_says_which_weights_made_it_and_how(loaded: LoadedModel) -> None:
    asked = GenerateRequest(prompt="a", n=2, seed=4, metadata={"a": "b"}, output_format="webp")
    job = Job(id="req-1", work=Drawing(prompt="a", n=2, seed=4, num_inference_steps=2))
    drawn = draw(loaded.family, job.work)
    timings = Timings(
        queue_seconds=1, prefill_seconds=2, denoise_seconds=3, decode_seconds=4, device_seconds=5
    )
    answer = images_answer(loaded.card, job, asked, Finished(result=drawn, timings=timings))
    assert answer.receipt.weights_sha256 == loaded.card.weights_hash
    assert answer.receipt.load_format == "auto"
    assert (answer.receipt.seed, answer.receipt.n, answer.receipt.times) == (4, 2, list(drawn.times))
    assert [image.seed for image in answer.images] == [4, 5]
    assert {image.mime_type for image in answer.images} == {"image/webp"}
    assert (answer.timings.total, answer.usage.device_seconds) == (10, 5)
    assert (answer.id, answer.metadata) == ("req-1", {"a": "b"})


def test_files_are_of_the_format_that_was_asked_for(loaded: LoadedModel) -> None:
    drawn = draw(loaded.family, Drawing(prompt="a", num_inference_steps=1))
    asked = GenerateRequest(prompt="a", output_format="png")
    file = image_file(asked, drawn.images[0])
    assert file.startswith(b"\x89PNG")
    assert base64.b64decode(image_text(asked, drawn.images[0])) == file


def test_words_that_the_model_never_saw_are_warned_of(loaded: LoadedModel) -> None:
    card = replace(loaded.card, about=About(words=frozenset({"a", "star"})))
    work = Drawing(prompt="A star, a dragon", negative_prompt="castle", num_inference_steps=1)
    finished = Finished(result=draw(loaded.family, work), timings=Timings(queue_seconds=0))
    job, asked = Job(id="req-1", work=work), GenerateRequest(prompt=work.prompt)
    (warning,) = images_answer(card, job, asked, finished).warnings
    assert "never saw dragon, castle;" in warning
    assert images_answer(loaded.card, job, asked, finished).warnings == []
