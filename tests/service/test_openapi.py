"""The public surface is frozen; write it anew with `python -m tests.service.test_openapi`."""

import json
from pathlib import Path
from typing import Any

from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.openapi import body_schemas
from service.schemas.drawing import EditRequest
from service.settings import Settings

FROZEN = Path(__file__).parent / "openapi.json"


def no_model() -> LoadedModel:
    raise AssertionError("a document needs no model")


def current() -> dict[str, Any]:
    return create_app(Settings(), Client(InlineEngine(no_model, EngineConfig()), model_id="any")).openapi()


def test_the_api_is_what_it_was() -> None:
    assert current() == json.loads(FROZEN.read_text()), "if it is meant: python -m tests.service.test_openapi"


def test_every_reference_leads_somewhere() -> None:
    document = current()
    names = set(document["components"]["schemas"])
    found = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert found <= names


def test_a_form_has_the_same_fields_as_the_body() -> None:
    form = body_schemas()["EditForm"]["properties"]
    assert form.keys() == EditRequest.model_fields.keys() - {"images"}


def test_every_endpoint_explains_itself() -> None:
    for path, methods in current()["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path}"
            assert {"4XX", "5XX"} <= operation["responses"].keys()


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n")
