"""Pictures in the OpenAI API's words: the answer, and the events of a stream."""

import time
from collections.abc import Iterator

from service.answering import image_text
from service.deps import Service
from service.engine.job import Event, Finished, Job, Preview
from service.schemas.answers import ImagesAnswer
from service.schemas.drawing import DrawingBody
from service.schemas.openai_images import (
    CompletedImage,
    ImagesDatum,
    ImagesEditsRequest,
    ImagesGenerationsRequest,
    ImagesResponse,
    PartialImage,
    usage_of,
)
from service.streaming import Message
from service.tasks import SCHEMAS, answer, task_of

Asked = ImagesGenerationsRequest | ImagesEditsRequest


def to_native(asked: Asked) -> DrawingBody:
    """Put a request in our words; what is the OpenAI API's alone changes nothing."""
    schema = SCHEMAS[task_of(asked)]
    given = schema.model_fields.keys() & asked.model_fields_set
    native = schema(**{name: getattr(asked, name) for name in given})
    assert isinstance(native, DrawingBody), "pictures are asked for"
    return native


def images_response(whole: ImagesAnswer, asked: Asked) -> ImagesResponse:
    """Put an answer in the OpenAI API's words."""
    return ImagesResponse(
        created=whole.created,
        data=[ImagesDatum(b64_json=image.b64_json, url=image.url, seed=image.seed) for image in whole.images],
        usage=usage_of(whole),
        size=whole.receipt.size,
        output_format=asked.output_format,
        safety_identifier=asked.end_user,
        id=whole.id,
        model=whole.model,
        metadata=whole.metadata,
        warnings=whole.warnings,
        timings=whole.timings,
        receipt=whole.receipt,
    )


class ImagesNarration:
    """Tells one job: partial images, then each picture in an event of its own.

    Called with each event in order; it writes files, so not on the event loop.
    """

    def __init__(self, service: Service, job: Job, asked: Asked) -> None:
        self._service, self._job, self._asked = service, job, asked
        self._is_edit = isinstance(asked, ImagesEditsRequest)
        self._num_previews = 0

    def __call__(self, event: Event) -> Iterator[Message]:
        """Put an event in the wire's words."""
        if isinstance(event, Preview):
            yield from self._look(event)
            self._num_previews += 1
        elif isinstance(event, Finished):
            whole = answer(self._service, self._job, self._asked, event)
            assert isinstance(whole, ImagesAnswer), "pictures were asked for"
            yield from self._pictures(whole)

    def _look(self, preview: Preview) -> Iterator[Message]:
        for index, image in enumerate(preview.images):
            told = PartialImage(
                type="image_edit.partial_image" if self._is_edit else "image_generation.partial_image",
                b64_json=image_text(self._service, self._job, self._asked, image),
                partial_image_index=self._num_previews,
                image_index=index,
                created_at=int(time.time()),
                size=f"{image.width}x{image.height}",
                output_format=self._asked.output_format,
            )
            yield Message(told.type, told)

    def _pictures(self, whole: ImagesAnswer) -> Iterator[Message]:
        for index, image in enumerate(whole.images):
            assert image.b64_json, "a stream holds its pictures"
            told = CompletedImage(
                type="image_edit.completed" if self._is_edit else "image_generation.completed",
                b64_json=image.b64_json,
                image_index=index,
                seed=image.seed,
                created_at=whole.created,
                size=whole.receipt.size,
                output_format=self._asked.output_format,
                usage=usage_of(whole, index=index),
                safety_identifier=self._asked.end_user,
            )
            yield Message(told.type, told)
