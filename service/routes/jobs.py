"""Requests that are run by themselves: asked for, looked up, followed and cancelled."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from service import wire
from service.deps import JobsTenantDep, ServiceDep
from service.errors import InvalidRequest, within
from service.idempotency import key_of
from service.jobs import Jobs, Order
from service.ledger import EventRow, JobRow
from service.routes.responses import GUARDED, body_of, file_of, stream_of
from service.schemas.answers import ImagesAnswer, TextAnswer
from service.schemas.body import Body, validate
from service.schemas.drawing import DrawingBody
from service.schemas.jobs import JobAnswer, JobRequest
from service.tasks import SCHEMAS, task_of
from service.tenant import Tenant
from service.waiting import unless_gone

ASYNC = "respond-async"
REPLAYED = "Idempotent-Replayed"

router = APIRouter(tags=["jobs"], responses=GUARDED)


async def _jobs(request: Request) -> Jobs:
    return jobs_of(request)


JobsDep = Annotated[Jobs, Depends(_jobs)]
LastEventId = Annotated[
    str, Header(description="The number of the last event that was seen; only later ones are sent.")
]


@router.post("/v1/jobs", status_code=202, response_model=JobAnswer, openapi_extra=body_of("JobRequest"))
async def create(request: Request, service: ServiceDep, jobs: JobsDep, tenant: JobsTenantDep) -> Response:
    """Ask for a picture, an edit or an answer that is made by itself, however long that takes.

    `request` is the body that the task's own endpoint takes. The answer says where the job is; it outlives
    restarts of the server, and whoever is named in `webhook` is told of its end. With an `Idempotency-Key`
    the same request again gives the same job.
    """
    body = await wire.read(request, JobRequest, max_bytes=service.settings.max_body_bytes)
    await service.admit(tenant, body.task)
    with within("request"):
        asked = validate(SCHEMAS[body.task], body.request)
        check_form(asked)
    order = Order(
        tenant=tenant, task=body.task, asked=asked, key=key_of(request), field="request", webhook=body.webhook
    )
    row, is_new = await jobs.create(order)
    return await accepted(request, jobs, row, is_new=is_new)


@router.get("/v1/jobs/{job_id}")
async def show(request: Request, job_id: str, jobs: JobsDep, tenant: JobsTenantDep) -> JobAnswer:
    """Say how far a job is, and what came of it.

    `result` is what the task's own endpoint answers. Links in it are made anew every time.
    """
    return await jobs.show(await jobs.find(tenant.name, job_id), str(request.base_url))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=Response,
    responses={200: {"content": stream_of()}, 204: {"description": "It has ended, and all was seen."}},
)
async def events(
    job_id: str, jobs: JobsDep, tenant: JobsTenantDep, last_event_id: LastEventId = "0"
) -> Response:
    """Follow a job by server-sent events, `state` and `progress`, from its creation to its end.

    Events are numbered and kept: with `Last-Event-ID`, as browsers send it when they connect again, only
    later ones are sent, after a restart of the server too.
    """
    row = await jobs.find(tenant.name, job_id)
    if not last_event_id.isdecimal():
        raise InvalidRequest("Last-Event-ID must be the number of an event", param="Last-Event-ID")
    if row.has_ended and int(last_event_id) >= row.num_events:
        return Response(status_code=204)
    return EventSourceResponse(_messages(jobs.follow(tenant.name, job_id, int(last_event_id))))


@router.delete("/v1/jobs/{job_id}")
async def cancel(request: Request, job_id: str, jobs: JobsDep, tenant: JobsTenantDep) -> JobAnswer:
    """Cancel a job; of one that has ended, delete the result and its pictures."""
    return await jobs.show(await jobs.cancel(tenant.name, job_id), str(request.base_url))


def jobs_of(request: Request) -> Jobs:
    """Return the jobs of the app that a request came to."""
    jobs = request.app.state.jobs
    assert isinstance(jobs, Jobs)
    return jobs


async def as_job(request: Request, tenant: Tenant, asked: Body) -> Response | None:
    """Answer by way of a job when the client wants one; return None when it does not.

    It does with `Prefer: respond-async`, which is answered at once, and with an `Idempotency-Key`, which is
    answered when the job has ended. A client that leaves does not take such a job along: it can come back.

    Raises:
        MissingScope: Its tenant's key may not make jobs.
        KeptError: What the job failed with.
        ClientGone: Nobody waits any more; the job goes on.
        RequestError: As Jobs.create, wait and result; so do others.
    """
    key, jobs = key_of(request), jobs_of(request)
    order = Order(tenant=tenant, task=task_of(asked), asked=asked, key=key)
    if prefers_async(request):
        tenant.check_scopes("jobs")
        check_form(asked)
        row, is_new = await jobs.create(order)
        return await accepted(request, jobs, row, is_new=is_new)
    if key is None:
        return None
    ((_, made),), headers = await run_keyed(request, [order])
    if isinstance(asked, DrawingBody) and asked.response_format == "binary":
        assert isinstance(made, ImagesAnswer), "a drawing makes pictures"
        return file_of(made, headers)
    return Response(made.model_dump_json(), media_type="application/json", headers=headers)


async def run_keyed(
    request: Request, orders: Sequence[Order]
) -> tuple[list[tuple[JobRow, ImagesAnswer | TextAnswer]], dict[str, str]]:
    """Run what a request with a key asks for, or join what runs or has run for it.

    Returns:
        Each job with its answer, and the headers that say whether it is the first time; raises as as_job.
    """
    jobs, base_url = jobs_of(request), str(request.base_url)
    made = [await jobs.create(order) for order in orders]
    ended = [await unless_gone(request, jobs.wait(row.tenant, row.id)) for row, _ in made]
    answers = [(row, await jobs.result(row, base_url)) for row in ended]
    return answers, {} if any(is_new for _, is_new in made) else {REPLAYED: "true"}


async def accepted(request: Request, jobs: Jobs, row: JobRow, *, is_new: bool) -> Response:
    """Answer that a job was taken in, and where it is."""
    headers = {"Location": f"/v1/jobs/{row.id}"}
    if prefers_async(request):
        headers["Preference-Applied"] = ASYNC
    if not is_new:
        headers[REPLAYED] = "true"
    shown = await jobs.show(row, str(request.base_url))
    return Response(shown.model_dump_json(), 202, headers, media_type="application/json")


def prefers_async(request: Request) -> bool:
    """Say whether a client wants its answer by way of a job. Source: RFC 7240, section 4.1."""
    preferences = ",".join(request.headers.getlist("prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == ASYNC for each in preferences)


def check_form(asked: Body) -> None:
    """Refuse a form of answer that a job does not have.

    Raises:
        InvalidRequest: Names the field.
    """
    if isinstance(asked, DrawingBody) and asked.response_format == "binary":
        raise InvalidRequest(
            "response_format binary is not for jobs, whose answers are JSON; ask for b64_json or url",
            param="response_format",
        )


async def _messages(following: AsyncGenerator[EventRow, None]) -> AsyncGenerator[ServerSentEvent, None]:
    async for event in following:
        yield ServerSentEvent(json.dumps(event.data), event=event.kind, id=str(event.number))
