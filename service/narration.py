"""What an engine's events are on the wire of the native endpoints."""

from collections.abc import Iterator

from model.request import Progress
from service.answering import image_text
from service.deltas import Deltas
from service.deps import Service
from service.engine.job import Event, Finished, Job, Preview
from service.schemas.answers import TextAnswer
from service.schemas.body import Body
from service.schemas.drawing import DrawingBody
from service.schemas.events import PartialImageEvent, ProgressEvent, TextDeltaEvent
from service.schemas.question import UnderstandRequest
from service.streaming import Message
from service.tasks import answer


class Narration:
    """Tells one job: `progress`, `partial_image` or `text_delta`, and `completed` with the whole answer.

    Called with each event in order; it writes files, so not on the event loop.
    """

    def __init__(self, service: Service, job: Job, asked: Body) -> None:
        self._service, self._job, self._asked = service, job, asked
        self._deltas = Deltas(asked.stop if isinstance(asked, UnderstandRequest) else ())
        self._num_previews = 0

    def __call__(self, event: Event) -> Iterator[Message]:
        """Put an event in the wire's words."""
        if isinstance(event, Finished):
            whole = answer(self._service, self._job, self._asked, event)
            if isinstance(whole, TextAnswer):
                yield from self._words(self._deltas.end(whole.answer))
            yield Message("completed", whole)
        elif isinstance(event, Preview):
            yield from self._look(event)
            self._num_previews += 1
        elif isinstance(event, Progress):
            yield from self._step(event)

    def _step(self, progress: Progress) -> Iterator[Message]:
        if progress.stage == "answer":
            yield from self._words(self._deltas.grow(progress.text))
            return
        told = ProgressEvent(
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            eta_seconds=progress.eta_seconds,
        )
        yield Message("progress", told)

    def _words(self, text: str) -> Iterator[Message]:
        if text:
            yield Message("text_delta", TextDeltaEvent(text=text))

    def _look(self, preview: Preview) -> Iterator[Message]:
        assert isinstance(self._asked, DrawingBody), "only pictures have previews"
        for index, image in enumerate(preview.images):
            told = PartialImageEvent(
                partial_image_index=self._num_previews,
                image_index=index,
                b64_json=image_text(self._service, self._job, self._asked, image),
                width=image.width,
                height=image.height,
                mime_type=f"image/{self._asked.output_format}",
            )
            yield Message("partial_image", told)
