"""The OpenAI API's endpoints: its clients' bodies become ours, and ours its answers."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import ReadyServiceDep, RequestIdDep, Service
from service.openai_images import Asked, ImagesNarration, images_response
from service.routes.responses import REFUSALS, body_of, stream_of
from service.schemas.answers import ImagesAnswer
from service.schemas.openai_images import ImagesEditsRequest, ImagesGenerationsRequest, ImagesResponse
from service.streaming import stream
from service.tasks import answer, to_job
from service.waiting import finish

IMAGES = REFUSALS | {
    200: {
        "description": "The pictures; with `stream` the events `image_generation.partial_image` and "
        "`image_generation.completed`, in an edit `image_edit.…`, or `error`.",
        "content": stream_of("PartialImage", "CompletedImage"),
    }
}

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/images/generations",
    response_model=ImagesResponse,
    responses=IMAGES,
    openapi_extra=body_of("ImagesGenerationsRequest"),
)
async def generations(request: Request, service: ReadyServiceDep, request_id: RequestIdDep) -> Response:
    """Make pictures from words, as the OpenAI API does.

    Fields of `/v1/generate` may come along, in the client's `extra_body`. Of fields that ask for what the
    model does not have, such as `quality`, only the value that leaves it open is taken.
    """
    limit = service.settings.max_body_bytes
    asked = await wire.read(request, ImagesGenerationsRequest, max_bytes=limit)
    return await draw(request, service, asked, request_id)


@router.post(
    "/v1/images/edits",
    response_model=ImagesResponse,
    responses=IMAGES,
    openapi_extra=body_of("ImagesEditsRequest", form="ImagesEditsForm"),
)
async def edits(request: Request, service: ReadyServiceDep, request_id: RequestIdDep) -> Response:
    """Make pictures from pictures and an instruction, as the OpenAI API does.

    Takes `multipart/form-data` with files in `image` or `image[]` and `mask`, or JSON as `/v1/edit`. Fields
    of `/v1/edit` may come along, in the client's `extra_body`.
    """
    limit = service.settings.max_body_bytes
    asked = await wire.read(request, ImagesEditsRequest, max_bytes=limit, takes_form=True)
    return await draw(request, service, asked, request_id)


async def draw(request: Request, service: Service, asked: Asked, request_id: str) -> Response:
    """Run a checked request for pictures and answer it."""
    request.state.end_user = asked.end_user
    job = await to_job(service, asked, request_id)
    if asked.stream:
        return await stream(request, service.client, job, ImagesNarration(service, job, asked))
    whole = await asyncio.to_thread(answer, service, job, asked, await finish(request, service.client, job))
    assert isinstance(whole, ImagesAnswer), "pictures were asked for"
    return Response(images_response(whole, asked).model_dump_json(), media_type="application/json")
