"""Pictures from words, and pictures from pictures and words."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import EditTenantDep, GenerateTenantDep, ReadyServiceDep, RequestIdDep, Service
from service.engine.job import Finished, Job
from service.narration import Narration
from service.results import publish
from service.routes.jobs import as_job
from service.routes.responses import FILES, GUARDED, body_of, file_of, stream_of
from service.schemas.answers import ImagesAnswer
from service.schemas.drawing import DrawingBody, EditRequest, GenerateRequest
from service.streaming import stream
from service.tasks import answer, to_job
from service.tenant import Tenant
from service.waiting import finish

ANSWERS = GUARDED | {
    200: {
        "description": "The pictures; with `binary` the one picture's file; with `stream` the events "
        "`progress`, `partial_image`, then `completed`, which is the answer, or `error`.",
        "content": FILES | stream_of("ProgressEvent", "PartialImageEvent", "ImagesAnswer"),
    }
}

router = APIRouter(tags=["pictures"], responses=ANSWERS)


@router.post("/v1/generate", response_model=ImagesAnswer, openapi_extra=body_of("GenerateRequest"))
async def generate(
    request: Request, tenant: GenerateTenantDep, service: ReadyServiceDep, request_id: RequestIdDep
) -> Response:
    """Make pictures from words.

    Fields that are left out take the model's defaults, which `/v1/capabilities` lists. What was used comes
    back: the seed of each picture, and a receipt of everything that makes the same pixels again.
    """
    asked = await wire.read(request, GenerateRequest, max_bytes=service.settings.max_body_bytes)
    if answered := await as_job(request, tenant, asked):
        return answered
    return await draw(request, service, asked, request_id, tenant)


@router.post("/v1/edit", response_model=ImagesAnswer, openapi_extra=body_of("EditRequest", form="EditForm"))
async def edit(
    request: Request, tenant: EditTenantDep, service: ReadyServiceDep, request_id: RequestIdDep
) -> Response:
    """Make pictures from pictures and an instruction.

    Takes JSON with images as `data:` URLs or base64, or `multipart/form-data` with files in `image` or
    `image[]` parts. The size is that of the first image unless another is asked for.
    """
    asked = await wire.read(request, EditRequest, max_bytes=service.settings.max_body_bytes, takes_form=True)
    if answered := await as_job(request, tenant, asked):
        return answered
    return await draw(request, service, asked, request_id, tenant)


async def draw(
    request: Request, service: Service, asked: DrawingBody, request_id: str, tenant: Tenant
) -> Response:
    """Run a checked request and answer it."""
    job = await to_job(service, asked, request_id, tenant)
    if asked.stream:
        return await stream(request, service.client, [job], Narration(service, job, asked))
    finished = await finish(request, service.client, job)
    if asked.response_format == "url":
        return await link(request, service, job, asked, finished)
    return await asyncio.to_thread(respond, service, job, asked, finished)


async def link(
    request: Request, service: Service, job: Job, asked: DrawingBody, finished: Finished
) -> Response:
    """Keep the pictures as long as links are valid, and answer with links."""
    made = await asyncio.to_thread(answer, service, job, asked, finished)
    assert isinstance(made, ImagesAnswer)
    made = await publish(service.store, service.links, made, str(request.base_url))
    return Response(made.model_dump_json(), media_type="application/json")


def respond(service: Service, job: Job, asked: DrawingBody, finished: Finished) -> Response:
    """Answer with JSON, or with the picture's file."""
    made = answer(service, job, asked, finished)
    if asked.response_format == "binary":
        assert isinstance(made, ImagesAnswer), "a drawing makes pictures"
        return file_of(made)
    return Response(made.model_dump_json(), media_type="application/json")
