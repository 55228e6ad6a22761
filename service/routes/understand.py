"""Words about pictures."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.answering import text_answer
from service.deps import ReadyServiceDep, RequestIdDep, Service
from service.engine.job import Job
from service.errors import InvalidRequest
from service.routes.responses import REFUSALS, body_of
from service.schemas.answers import TextAnswer
from service.schemas.question import TextPart, UnderstandRequest, check_question, to_question
from service.uploads import open_images, pick_images
from service.waiting import finish

router = APIRouter(tags=["words"], responses=REFUSALS)


@router.post("/v1/understand", response_model=TextAnswer, openapi_extra=body_of("UnderstandRequest"))
async def understand(request: Request, service: ReadyServiceDep, request_id: RequestIdDep) -> Response:
    """Answer a question about pictures.

    Give `prompt` with `image` or `images`, or a conversation of several turns in `messages`, in the OpenAI
    API's form. The answer is the likeliest one unless `temperature` is above 0.
    """
    asked = await wire.read(request, UnderstandRequest, max_bytes=service.settings.max_body_bytes)
    service.check_model(asked.model)
    job = await asyncio.to_thread(to_job, service, asked, request_id)
    finished = await finish(request, service.client, job)
    answer = text_answer(service.client.card, job, asked, finished)
    return Response(answer.model_dump_json(), media_type="application/json")


def to_job(service: Service, asked: UnderstandRequest, request_id: str) -> Job:
    """Open the images of a request and put it in the engine's words."""
    check_question(asked)
    most = service.settings.max_tokens
    if asked.max_tokens and asked.max_tokens > most:
        raise InvalidRequest(f"max_tokens {asked.max_tokens}, {most} at most", param="max_tokens")
    check_texts(service, asked)
    encoded, param = pick_images(asked.image, asked.images)
    if asked.messages is not None:
        encoded, param = [image for message in asked.messages for image in message.images], "messages"
    limit = service.client.capabilities.max_images
    images = open_images(encoded, param=param, limit=limit, settings=service.settings)
    return Job(
        id=request_id,
        work=to_question(asked, images, max_tokens=service.default_max_tokens),
        priority=asked.priority,
        deadline_seconds=asked.deadline_seconds,
    )


def check_texts(service: Service, asked: UnderstandRequest) -> None:
    """Refuse words beyond the limit, before any image is opened."""
    service.check_text(asked.prompt or "", "prompt")
    for index, message in enumerate(asked.messages or []):
        for part in message.content:
            if isinstance(part, TextPart):
                service.check_text(part.text, f"messages.{index}.content")
