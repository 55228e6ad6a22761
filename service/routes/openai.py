"""The OpenAI API's endpoints: its clients' bodies become ours, and ours its answers."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import EditTenantDep, GenerateTenantDep, ReadyServiceDep, RequestIdDep, Service, TenantDep
from service.idempotency import check_whole, key_of, key_of_part
from service.jobs import Order
from service.openai_chat import Chat, named, to_bodies, to_chat
from service.openai_completion import ChatNarration, completion, completion_of
from service.openai_images import Asked, ImagesNarration, images_response, to_native
from service.results import publish
from service.routes.jobs import run_keyed
from service.routes.responses import GUARDED, body_of, stream_of
from service.schemas.answers import ImagesAnswer
from service.schemas.openai_chat import ChatCompletion, ChatRequest
from service.schemas.openai_images import ImagesEditsRequest, ImagesGenerationsRequest, ImagesResponse
from service.streaming import stream
from service.tasks import answer, task_of, to_job
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
    if key := key_of(request):
        return await chat_keyed(request, service, asked, tenant, key)
    chat = await to_chat(service, asked, request_id, tenant)
    request.state.task = chat.jobs[-1].task
    with named(asked):
        if asked.stream:
            return await stream(request, service.client, chat.jobs, ChatNarration(service, chat))
        finished = await finish_all(request, service.client, chat.jobs)
    whole = await asyncio.to_thread(completion, service, chat, finished)
    return Response(whole.model_dump_json(), media_type="application/json")


async def chat_keyed(
    request: Request, service: Service, asked: ChatRequest, tenant: Tenant, key: str
) -> Response:
    """Answer a chat that has a key, or answer it again."""
    check_whole(asked)
    bodies = to_bodies(asked)
    tasks = [task_of(body) for body in bodies]
    request.state.task = tasks[-1]
    await service.admit(tenant, *tasks)
    orders = [
        Order(
            tenant=tenant,
            task=task,
            asked=body,
            key=key_of_part(key, index),
            origin=("/v1/chat/completions", asked),
        )
        for index, (task, body) in enumerate(zip(tasks, bodies, strict=True))
    ]
    with named(asked):
        answers, headers = await run_keyed(request, orders)
    chat = Chat(id=answers[0][0].id, asked=asked, parts=())
    whole = completion_of(service, chat, [made for _, made in answers])
    return Response(whole.model_dump_json(), media_type="application/json", headers=headers)


async def draw(request: Request, service: Service, asked: Asked, request_id: str, tenant: Tenant) -> Response:
    """Run a checked request for pictures and answer it."""
    request.state.end_user = asked.end_user
    if key := key_of(request):
        check_whole(asked)
        order = Order(
            tenant=tenant,
            task=task_of(asked),
            asked=to_native(asked),
            key=key,
            origin=(request.url.path, asked),
        )
        ((_, made),), headers = await run_keyed(request, [order])
        assert isinstance(made, ImagesAnswer), "pictures were asked for"
        said = images_response(made, asked).model_dump_json()
        return Response(said, media_type="application/json", headers=headers)
    job = await to_job(service, asked, request_id, tenant)
    if asked.stream:
        return await stream(request, service.client, [job], ImagesNarration(service, job, asked))
    whole = await asyncio.to_thread(answer, service, job, asked, await finish(request, service.client, job))
    assert isinstance(whole, ImagesAnswer), "pictures were asked for"
    if asked.response_format == "url":
        whole = await publish(service.store, service.links, whole, str(request.base_url))
    return Response(images_response(whole, asked).model_dump_json(), media_type="application/json")
