"""What a request becomes: its images opened, a job for the engine, and an answer from its result.

Whoever takes requests in, by whatever route, goes this way.
"""

import logging
from collections.abc import Mapping

from model.drawing import Drawing
from model.prompt import Task
from model.question import Question
from model.request import check_task
from service.answering import images_answer, text_answer
from service.content import content_of
from service.deps import Service
from service.engine.job import Finished, Job
from service.errors import InvalidRequest
from service.schemas.answers import ImagesAnswer, TextAnswer
from service.schemas.body import Body, as_list
from service.schemas.drawing import DrawingBody, EditRequest, GenerateRequest, check_drawing, to_drawing
from service.schemas.question import TextPart, UnderstandRequest, check_question, to_question
from service.tenant import Tenant
from service.uploads import fetch_files, pick_images, read_images, read_mask

log = logging.getLogger(__name__)

SCHEMAS: Mapping[Task, type[Body]] = {
    "generate": GenerateRequest,
    "edit": EditRequest,
    "understand": UnderstandRequest,
}


def task_of(asked: Body) -> Task:
    """Return the task of a request."""
    return next(task for task, schema in SCHEMAS.items() if isinstance(asked, schema))


async def to_job(service: Service, asked: Body, request_id: str, tenant: Tenant) -> Job:
    """Check a request against the loaded model, open its images and put it in the engine's words.

    Args:
        tenant: Whose share of the device it will use.

    Raises:
        ModelNotFound: Another model is asked for.
        RequestError: A field is wrong; says which.
        ModelError: The model cannot do it.
    """
    service.check_model(asked.model)
    work: Drawing | Question
    if isinstance(asked, DrawingBody):
        work = await _drawing(service, asked)
    elif isinstance(asked, UnderstandRequest):
        work = await _question(service, asked)
    else:
        raise TypeError(f"no task takes a {type(asked).__name__}")
    if service.settings.log_content:
        log.info("asked", extra=content_of(work))
    return Job(
        id=request_id,
        work=work,
        tenant=tenant.name,
        weight=tenant.weight,
        priority=asked.priority,
        deadline_seconds=asked.deadline_seconds,
        num_previews=asked.partial_images if isinstance(asked, DrawingBody) else 0,
    )


async def fetched(service: Service, asked: Body) -> Body:
    """Return a request that holds the images whose addresses it names, so that it can be run again as it is.

    Of more images than any task takes none is fetched; to_job refuses them.

    Raises:
        InvalidImage: One of them cannot be fetched.
        ImageTooLarge: One of them has too many bytes.
    """
    can = service.client.capabilities
    data = asked.model_dump(exclude_unset=True)
    fields = [(data, name, name) for name in ("image", "images", "mask") if data.get(name)]
    for message in data.get("messages", []):
        fields += [
            (part["image_url"], "url", "messages") for part in message["content"] if "image_url" in part
        ]
    encoded = [item for held, name, _ in fields for item in as_list(held[name])]
    if len(encoded) > 1 + max(can.max_references, can.max_images):
        return asked
    names = [param for held, name, param in fields for _ in as_list(held[name])]
    files = iter(await fetch_files(encoded, names, service.fetcher))
    for held, name, _ in fields:
        is_list = isinstance(held[name], list)
        held[name] = [next(files) for _ in held[name]] if is_list else next(files)
    return type(asked).model_validate(data)


def answer(service: Service, job: Job, asked: Body, finished: Finished) -> ImagesAnswer | TextAnswer:
    """Make the answer to a job of to_job's; writes files, so not on the event loop."""
    if isinstance(asked, DrawingBody):
        return images_answer(service, job, asked, finished)
    assert isinstance(asked, UnderstandRequest), "to_job took it"
    return text_answer(service.client.card, job, asked, finished)


async def _drawing(service: Service, asked: DrawingBody) -> Drawing:
    can = service.client.capabilities
    check_task(task_of(asked), can)
    check_drawing(asked, can)
    service.check_text(asked.prompt, "prompt")
    service.check_text(asked.negative_prompt, "negative_prompt")
    if not isinstance(asked, EditRequest):
        return to_drawing(asked)
    encoded, param = pick_images(asked.image, asked.images)
    if not encoded:
        raise InvalidRequest("image is required: the picture to edit", param="image")
    settings, fetcher = service.settings, service.fetcher
    images = await read_images(
        encoded, param=param, limit=can.max_references, settings=settings, fetcher=fetcher
    )
    mask = None
    if asked.mask:
        mask = await read_mask(asked.mask, param="mask", settings=settings, fetcher=fetcher)
    return to_drawing(asked, images, mask)


async def _question(service: Service, asked: UnderstandRequest) -> Question:
    check_task("understand", service.client.capabilities)
    check_question(asked)
    most = service.settings.max_tokens
    if asked.max_tokens and asked.max_tokens > most:
        raise InvalidRequest(f"max_tokens {asked.max_tokens}, {most} at most", param="max_tokens")
    _check_texts(service, asked)
    encoded, param = pick_images(asked.image, asked.images)
    if asked.messages is not None:
        encoded, param = [image for message in asked.messages for image in message.images], "messages"
    limit = service.client.capabilities.max_images
    images = await read_images(
        encoded, param=param, limit=limit, settings=service.settings, fetcher=service.fetcher
    )
    return to_question(asked, images, max_tokens=service.default_max_tokens)


def _check_texts(service: Service, asked: UnderstandRequest) -> None:
    """Refuse words beyond the limit, before any image is opened."""
    service.check_text(asked.prompt or "", "prompt")
    for index, message in enumerate(asked.messages or []):
        for part in message.content:
            if isinstance(part, TextPart):
                service.check_text(part.text, f"messages.{index}.content")
