"""The API's document: what FastAPI finds in the routes, and the bodies that routes read by themselves."""

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.schemas.drawing import EditRequest, GenerateRequest
from service.schemas.jobs import JobRequest
from service.schemas.question import UnderstandRequest

REFERENCE = "#/components/schemas/{model}"
FILE = {"type": "string", "format": "binary"}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app."""
    spec = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    spec["components"]["schemas"].update(body_schemas())
    return spec


def body_schemas() -> dict[str, Any]:
    """Return the request bodies' schemas and what they refer to, by name."""
    bodies = (GenerateRequest, EditRequest, UnderstandRequest, JobRequest)
    _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas | {"EditForm": form_schema(schemas["EditRequest"])}


def form_schema(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body's schema as a form: the same fields, images as files."""
    form = deepcopy(body)
    form["title"] = "EditForm"
    del form["oneOf"]
    form["properties"].pop("images")
    form["properties"]["image"] = {
        "type": "array",
        "items": FILE,
        "description": "The pictures to edit, in order.",
    }
    form["required"] = [*form.get("required", []), "image"]
    return form
