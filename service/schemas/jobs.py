"""Jobs on the wire: how one is asked for, and what is said of it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from model.prompt import Task
from service.ledger import State
from service.schemas.answers import Answer, ErrorData, ImagesAnswer, TextAnswer
from service.schemas.body import Part
from service.webhooks import check_secret


def _as_webhook(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _checked_secret(secret: str) -> str:
    check_secret(secret)
    return secret


class Webhook(Part):
    """Who is told when the job has ended."""

    url: str = Field(min_length=1, max_length=2000, description="An https address; a POST goes there.")
    secret: Annotated[str, AfterValidator(_checked_secret)] | None = Field(
        None, description='What messages are signed with: "whsec_" and base64; the server\'s when left out.'
    )


class JobRequest(Part):
    """A request to be run by itself."""

    task: Task
    request: dict[str, Any] = Field(description="The body that this task's own endpoint takes.")
    webhook: Annotated[
        Webhook | None,
        BeforeValidator(_as_webhook, json_schema_input_type=str | Webhook),
        Field(description="Who is told when the job has ended: an address, or an address and a secret."),
    ] = None


class JobProgress(Answer):
    """How far a job is."""

    stage: str = Field(description="queue, prefill, denoise, decode or answer.")
    done: int = Field(description="Of the stage's units.")
    total: int


class WebhookData(Answer):
    """How the telling goes."""

    state: Literal["waiting", "pending", "delivered", "failed"] = Field(
        description="waiting for the job to end; pending until an answer of 2xx."
    )
    attempts: int


class JobAnswer(Answer):
    """A job. Times are Unix seconds."""

    id: str
    object: Literal["job"] = "job"
    task: Task
    model: str
    state: State
    progress: JobProgress | None
    eta_seconds: float | None = Field(description="Until its end, as far as can be told.")
    attempts: int = Field(description="How often it was begun; above 1 after a restart.")
    created: float
    begun: float | None
    ended: float | None
    expires: float = Field(description="When it is forgotten, with its pictures.")
    metadata: dict[str, str] = Field(description="As it came.")
    result: ImagesAnswer | TextAnswer | None = Field(description="As the task's own endpoint answers.")
    error: ErrorData | None = Field(description="Why it failed.")
    deleted: bool = Field(description="Its result was deleted.")
    webhook: WebhookData | None
