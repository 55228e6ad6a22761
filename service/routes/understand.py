"""Words about pictures."""

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import ReadyServiceDep, RequestIdDep, TenantDep
from service.routes.jobs import as_job
from service.routes.responses import REFUSALS, body_of
from service.schemas.answers import TextAnswer
from service.schemas.question import UnderstandRequest
from service.tasks import answer, to_job
from service.waiting import finish

router = APIRouter(tags=["words"], responses=REFUSALS)


@router.post("/v1/understand", response_model=TextAnswer, openapi_extra=body_of("UnderstandRequest"))
async def understand(
    request: Request, service: ReadyServiceDep, request_id: RequestIdDep, tenant: TenantDep
) -> Response:
    """Answer a question about pictures.

    Give `prompt` with `image` or `images`, or a conversation of several turns in `messages`, in the OpenAI
    API's form. The answer is the likeliest one unless `temperature` is above 0.
    """
    asked = await wire.read(request, UnderstandRequest, max_bytes=service.settings.max_body_bytes)
    if answered := await as_job(request, service, tenant, "understand", asked):
        return answered
    job = await to_job(service, asked, request_id)
    finished = await finish(request, service.client, job)
    return Response(answer(service, job, asked, finished).model_dump_json(), media_type="application/json")
