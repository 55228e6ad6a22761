"""Words about pictures."""

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import ReadyServiceDep, RequestIdDep, UnderstandTenantDep
from service.narration import Narration
from service.routes.jobs import as_job
from service.routes.responses import GUARDED, body_of, stream_of
from service.schemas.answers import TextAnswer
from service.schemas.question import UnderstandRequest
from service.streaming import stream
from service.tasks import answer, to_job
from service.waiting import finish

ANSWERS = GUARDED | {
    200: {
        "description": "The words; with `stream` the events `progress`, `text_delta`, then `completed`, "
        "which is the answer, or `error`.",
        "content": stream_of("ProgressEvent", "TextDeltaEvent", "TextAnswer"),
    }
}

router = APIRouter(tags=["words"], responses=ANSWERS)


@router.post("/v1/understand", response_model=TextAnswer, openapi_extra=body_of("UnderstandRequest"))
async def understand(
    request: Request, tenant: UnderstandTenantDep, service: ReadyServiceDep, request_id: RequestIdDep
) -> Response:
    """Answer a question about pictures.

    Give `prompt` with `image` or `images`, or a conversation of several turns in `messages`, in the OpenAI
    API's form. The answer is the likeliest one unless `temperature` is above 0.
    """
    asked = await wire.read(request, UnderstandRequest, max_bytes=service.settings.max_body_bytes)
    if answered := await as_job(request, tenant, asked):
        return answered
    job = await to_job(service, asked, request_id, tenant)
    if asked.stream:
        return await stream(request, service.client, [job], Narration(service, job, asked))
    finished = await finish(request, service.client, job)
    return Response(answer(service, job, asked, finished).model_dump_json(), media_type="application/json")
