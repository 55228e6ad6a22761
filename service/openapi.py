"""The API's document: what FastAPI finds in the routes, bodies that they read by themselves, and events."""

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.schemas.drawing import EditRequest, GenerateRequest
from service.schemas.events import PartialImageEvent, ProgressEvent, TextDeltaEvent
from service.schemas.jobs import JobRequest
from service.schemas.openai_chat import ChatChunk, ChatRequest
from service.schemas.openai_images import (
    CompletedImage,
    ImagesEditsRequest,
    ImagesGenerationsRequest,
    PartialImage,
)
from service.schemas.question import UnderstandRequest
from service.schemas.verify import VerifyRequest

REFERENCE = "#/components/schemas/{model}"
FILE = {"type": "string", "format": "binary"}
VERIFY_FORM = {
    "title": "VerifyForm",
    "type": "object",
    "properties": {"image": FILE | {"description": "The file as it is."}},
    "required": ["image"],
}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    spec["components"]["schemas"].update(body_schemas() | event_schemas())
    return spec


def body_schemas() -> dict[str, Any]:
    """Return the request bodies' schemas and what they refer to, by name."""
    bodies = (
        GenerateRequest,
        EditRequest,
        UnderstandRequest,
        ImagesGenerationsRequest,
        ImagesEditsRequest,
        ChatRequest,
        JobRequest,
        VerifyRequest,
    )
    _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    forms = {"EditForm": "EditRequest", "ImagesEditsForm": "ImagesEditsRequest"}
    made = {form: form_schema(schemas[body], form) for form, body in forms.items()}
    return schemas | made | {"VerifyForm": VERIFY_FORM}


def event_schemas() -> dict[str, Any]:
    """Return the schemas of the events of streams, by name."""
    events = (ProgressEvent, PartialImageEvent, TextDeltaEvent, PartialImage, CompletedImage, ChatChunk)
    _, found = models_json_schema([(event, "serialization") for event in events], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def form_schema(body: dict[str, Any], title: str) -> dict[str, Any]:
    """Return a body's schema as a form: the same fields, images as files."""
    form = deepcopy(body)
    form["title"] = title
    del form["oneOf"]
    form["properties"].pop("images")
    form["properties"]["image"] = {
        "type": "array",
        "items": FILE,
        "description": "The pictures to edit, in order.",
    }
    form["properties"]["mask"] = FILE | {"description": body["properties"]["mask"]["description"]}
    form["required"] = [*form.get("required", []), "image"]
    return form
