"""From an engine's result to an answer on the wire."""

import base64
import time

from PIL.Image import Image

from model.drawing import Drawing, Drawn
from model.images import encode_image
from model.question import Answered, Question
from service.engine.job import Finished, Job, ModelCard, Timings
from service.schemas.answers import (
    AnswerUsage,
    DrawingUsage,
    GuidanceData,
    ImageData,
    ImagesAnswer,
    Receipt,
    TextAnswer,
    TimingsData,
)
from service.schemas.drawing import DrawingBody
from service.schemas.question import UnderstandRequest


def image_file(asked: DrawingBody, image: Image) -> bytes:
    """Write a picture as the file that was asked for."""
    return encode_image(image, asked.output_format, asked.output_compression)


def image_text(asked: DrawingBody, image: Image) -> str:
    """Write a picture as a file in base64."""
    return base64.b64encode(image_file(asked, image)).decode()


def images_answer(model: ModelCard, job: Job, asked: DrawingBody, finished: Finished) -> ImagesAnswer:
    """Make the answer to a drawing."""
    drawn, drawing = finished.result, job.work
    assert isinstance(drawn, Drawn)
    assert isinstance(drawing, Drawing)
    return ImagesAnswer(
        id=job.id,
        created=int(time.time()),
        model=model.id,
        metadata=asked.metadata,
        warnings=_drawing_warnings(drawing) + _word_warnings(model, drawing.prompt, drawing.negative_prompt),
        images=_images(asked, drawn),
        usage=_drawing_usage(drawn, finished.timings),
        timings=_timings(finished.timings),
        receipt=_receipt(model, job, drawing, drawn),
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


def _images(asked: DrawingBody, drawn: Drawn) -> list[ImageData]:
    return [
        ImageData(
            b64_json=image_text(asked, image),
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


def _receipt(model: ModelCard, job: Job, drawing: Drawing, drawn: Drawn) -> Receipt:
    can = model.capabilities
    return Receipt(
        task=job.task,
        model=model.id,
        family=can.family,
        weights_sha256=model.weights_hash,
        load_format=model.load_format,
        prompt=drawing.prompt,
        negative_prompt=drawing.negative_prompt,
        seed=drawn.seeds[0],
        n=len(drawn.seeds),
        size=str(drawn.size),
        solver=drawing.solver,
        grid=can.grid,
        times=list(drawn.times),
        guidance=_guidance(model, drawing, drawn),
        acceleration="exact",
        attention_backend=model.backend,
        dtype=model.dtype,
        device=model.device,
    )


def _guidance(model: ModelCard, drawing: Drawing, drawn: Drawn) -> GuidanceData:
    guidance = drawn.guidance
    branches = guidance.all_branches(has_references=bool(drawing.images))
    return GuidanceData(
        text=guidance.text,
        image=guidance.image,
        interval=guidance.interval,
        rescale=guidance.rescale,
        clock=model.capabilities.guidance_clock,
        branches=[branch.value for branch in branches],
    )
