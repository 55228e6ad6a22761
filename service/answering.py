"""From an engine's result to an answer on the wire."""

import base64
import time

from PIL.Image import Image

from model.drawing import Drawing, Drawn
from model.errors import InvalidImage
from model.question import Answered, Question
from service.deps import Service
from service.engine.job import Finished, Job, ModelCard, Timings
from service.receipts import receipt, statement
from service.schemas.answers import (
    AnswerUsage,
    DrawingUsage,
    ImageData,
    ImagesAnswer,
    ProvenanceData,
    TextAnswer,
    TimingsData,
)
from service.schemas.drawing import DrawingBody, EditRequest
from service.schemas.question import UnderstandRequest
from service.uploads import decode_text, pick_images


def image_file(service: Service, job: Job, asked: DrawingBody, image: Image) -> bytes:
    """Write a picture of a job as the file that was asked for, marked and signed; not on the event loop."""
    drawing = job.work
    assert isinstance(drawing, Drawing)
    return service.provenance.write(
        image,
        asked.output_format,
        asked.output_compression,
        statement(service.client.card, drawing, given_files(asked)),
        has_mask=drawing.mask is not None,
    )


def image_text(service: Service, job: Job, asked: DrawingBody, image: Image) -> str:
    """Write a picture of a job as such a file in base64."""
    return base64.b64encode(image_file(service, job, asked, image)).decode()


def given_files(asked: DrawingBody) -> list[bytes | None]:
    """Return the files of an edit's images that came with the request."""
    if not isinstance(asked, EditRequest):
        return []
    encoded, param = pick_images(asked.image, asked.images)
    return [_given_file(each, param) for each in encoded]


def _given_file(encoded: str | bytes, param: str) -> bytes | None:
    try:
        return encoded if isinstance(encoded, bytes) else decode_text(encoded, param)[0]
    except InvalidImage:  # an address
        return None


def images_answer(service: Service, job: Job, asked: DrawingBody, finished: Finished) -> ImagesAnswer:
    """Make the answer to a drawing; not on the event loop."""
    model = service.client.card
    drawn, drawing = finished.result, job.work
    assert isinstance(drawn, Drawn)
    assert isinstance(drawing, Drawing)
    return ImagesAnswer(
        id=job.id,
        created=int(time.time()),
        model=model.id,
        metadata=asked.metadata,
        warnings=_drawing_warnings(drawing) + _word_warnings(model, drawing.prompt, drawing.negative_prompt),
        images=_images(service, job, asked, drawn),
        usage=_drawing_usage(drawn, finished.timings),
        timings=_timings(finished.timings),
        receipt=receipt(model, drawing, drawn, _provenance(service, drawing, drawn)),
    )


def text_answer(model: ModelCard, job: Job, asked: UnderstandRequest, finished: Finished) -> TextAnswer:
    """Make the answer to a question."""
    answered = finished.result
    assert isinstance(answered, Answered)
    return TextAnswer(
        id=job.id,
        created=int(time.time()),
        model=model.id,
        metadata=asked.metadata,
        warnings=_word_warnings(model, *_words(job)),
        answer=answered.text,
        finish_reason="stop" if answered.finish_reason == "stop" else "length",
        seed=answered.seed,
        usage=_answer_usage(answered, finished.timings),
        timings=_timings(finished.timings),
    )


def _drawing_warnings(drawing: Drawing) -> list[str]:
    if drawing.mask is not None and not drawing.mask.getbbox():
        return ["the mask lets nothing change; make it transparent where the picture may change"]
    return []


def _words(job: Job) -> list[str]:
    assert isinstance(job.work, Question)
    return [part for turn in job.work.turns for part in turn.parts if isinstance(part, str)]


def _word_warnings(model: ModelCard, *texts: str) -> list[str]:
    if unknown := model.about.unknown(*texts):
        return [f"the model never saw {', '.join(unknown[:8])}; /v1/capabilities has words that it knows"]
    return []


def _provenance(service: Service, drawing: Drawing, drawn: Drawn) -> ProvenanceData:
    return service.provenance.plan(drawn.images[0], has_mask=drawing.mask is not None)


def _images(service: Service, job: Job, asked: DrawingBody, drawn: Drawn) -> list[ImageData]:
    return [
        ImageData(
            b64_json=image_text(service, job, asked, image),
            seed=seed,
            width=image.width,
            height=image.height,
            mime_type=f"image/{asked.output_format}",
        )
        for seed, image in zip(drawn.seeds, drawn.images, strict=True)
    ]


def _drawing_usage(drawn: Drawn, timings: Timings) -> DrawingUsage:
    usage = drawn.usage
    return DrawingUsage(
        prompt_tokens=usage.prompt_tokens,
        prompt_image_tokens=usage.prompt_image_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        prefilled_tokens=usage.prefilled_tokens,
        device_seconds=timings.device_seconds,
        image_tokens=usage.image_tokens,
        steps=usage.steps,
        network_calls=usage.network_calls,
    )


def _answer_usage(answered: Answered, timings: Timings) -> AnswerUsage:
    usage = answered.usage
    return AnswerUsage(
        prompt_tokens=usage.prompt_tokens,
        prompt_image_tokens=usage.prompt_image_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        prefilled_tokens=usage.prefilled_tokens,
        device_seconds=timings.device_seconds,
        completion_tokens=usage.completion_tokens,
    )


def _timings(timings: Timings) -> TimingsData:
    return TimingsData(
        queue=timings.queue_seconds,
        prefill=timings.prefill_seconds,
        denoise=timings.denoise_seconds,
        decode=timings.decode_seconds,
        total=timings.total_seconds,
        expected=timings.expected_seconds,
    )
