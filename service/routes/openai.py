"""The OpenAI API's endpoints: its clients' bodies become ours, and ours its answers."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import EditTenantDep, GenerateTenantDep, ReadyServiceDep, RequestIdDep, Service, TenantDep
from service.openai_chat import named, to_chat
from service.openai_completion import ChatNarration, completion
from service.openai_images import Asked, ImagesNarration, images_response
from service.results import publish
from service.routes.responses import GUARDED, body_of, stream_of
from service.schemas.answers import ImagesAnswer
from service.schemas.openai_chat import ChatCompletion, ChatRequest
from service.schemas.openai_images import ImagesEditsRequest, ImagesGenerationsRequest, ImagesResponse
from service.streaming import stream
from service.tasks import answer, to_job
from service.tenant import Tenant
from service.waiting import finish, finish_all

CHATS = GUARDED | {
    200: {
        "description": "The assistant's message; with `stream` chunks of it, then `[DONE]`, or `error`.",
        "content": stream_of("ChatChunk"),
    }
}
IMAGES = GUARDED | {
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
async def generations(
    request: Request, service: ReadyServiceDep, request_id: RequestIdDep, tenant: GenerateTenantDep
) -> Response:
    """Make pictures from words, as the OpenAI API does.

    Fields of `/v1/generate` may come along, in the client's `extra_body`. Of fields that ask for what the
    model does not have, such as `quality`, only the value that leaves it open is taken.
    """
    limit = service.settings.max_body_bytes
    asked = await wire.read(request, ImagesGenerationsRequest, max_bytes=limit)
    return await draw(request, service, asked, request_id, tenant)


@router.post(
    "/v1/images/edits",
    response_model=ImagesResponse,
    responses=IMAGES,
    openapi_extra=body_of("ImagesEditsRequest", form="ImagesEditsForm"),
)
async def edits(
    request: Request, service: ReadyServiceDep, request_id: RequestIdDep, tenant: EditTenantDep
) -> Response:
    """Make pictures from pictures and an instruction, as the OpenAI API does.

    Takes `multipart/form-data` with files in `image` or `image[]` and `mask`, or JSON as `/v1/edit`. Fields
    of `/v1/edit` may come along, in the client's `extra_body`.
    """
    limit = service.settings.max_body_bytes
    asked = await wire.read(request, ImagesEditsRequest, max_bytes=limit, takes_form=True)
    return await draw(request, service, asked, request_id, tenant)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=CHATS,
    openapi_extra=body_of("ChatRequest"),
)
async def chat_completions(
    request: Request, service: ReadyServiceDep, request_id: RequestIdDep, tenant: TenantDep
) -> Response:
    """Answer a conversation, as the OpenAI API does.

    Messages bring text and images. With `modalities` `["text", "image"]` the conversation is answered in
    words, and a picture is made from the last message, or of the images in it; `["image"]` leaves the words
    out. It comes in `message.images`, in a stream in a `delta.images`, as `data:` URLs. Fields of
    `/v1/understand`, and of `/v1/generate` for the picture, may come along.
    """
    asked = await wire.read(request, ChatRequest, max_bytes=service.settings.max_body_bytes)
    request.state.end_user = asked.end_user
    chat = await to_chat(service, asked, request_id, tenant)
    request.state.task = chat.jobs[-1].task
    with named(asked):
        if asked.stream:
            return await stream(request, service.client, chat.jobs, ChatNarration(service, chat))
        finished = await finish_all(request, service.client, chat.jobs)
    whole = await asyncio.to_thread(completion, service, chat, finished)
    return Response(whole.model_dump_json(), media_type="application/json")


async def draw(request: Request, service: Service, asked: Asked, request_id: str, tenant: Tenant) -> Response:
    """Run a checked request for pictures and answer it."""
    request.state.end_user = asked.end_user
    job = await to_job(service, asked, request_id, tenant)
    if asked.stream:
        return await stream(request, service.client, [job], ImagesNarration(service, job, asked))
    whole = await asyncio.to_thread(answer, service, job, asked, await finish(request, service.client, job))
    assert isinstance(whole, ImagesAnswer), "pictures were asked for"
    if asked.response_format == "url":
        whole = await publish(service.store, service.links, whole, str(request.base_url))
    return Response(images_response(whole, asked).model_dump_json(), media_type="application/json")
