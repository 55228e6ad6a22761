"""What every request body shares: strict types, no field that is not known, every problem said at once."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from model.request import MAX_SEED
from service.engine.scheduler import Priority
from service.errors import InvalidRequest, RequestError, UnknownField

ELSEWHERE = frozenset(
    {"audio", "functions", "function_call", "input_fidelity", "prediction", "reasoning_effort", "style"}
    | {"tool_choice", "tools", "verbosity", "web_search_options", "webhook"}
)
"""Fields that other APIs of this kind have."""


MAX_DEADLINE_MS = 24 * 3600 * 1000


def _encoded(value: object) -> str | bytes:
    if not isinstance(value, str | bytes) or not value:
        raise ValueError("must be an image as a data: URL or as base64 text")
    return value


def as_list(value: Any) -> Any:
    """Take one for a list of one."""
    return [value] if isinstance(value, str | bytes) else value


ENCODED_SCHEMA = {
    "type": "string",
    "description": "A data: URL, bare base64, or an https address where the server fetches images.",
}
Encoded = Annotated[str | bytes, PlainValidator(_encoded), WithJsonSchema(ENCODED_SCHEMA)]
OneOrMore = Annotated[
    list[Encoded],
    BeforeValidator(as_list),
    Field(min_length=1),
    WithJsonSchema({"anyOf": [ENCODED_SCHEMA, {"type": "array", "items": ENCODED_SCHEMA, "minItems": 1}]}),
]
EndUser = Annotated[str, StringConstraints(max_length=128)]
Metadata = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]],
    Field(max_length=16, description="Up to 16 pairs of your own, echoed in the answer and never logged."),
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Part(BaseModel):
    """Any object of a request: strict, closed, and null means that a field was left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, data: Any) -> Any:
        """Take null for absent, in fields that exist."""
        if not isinstance(data, dict):
            return data
        return {
            name: value for name, value in data.items() if value is not None or name not in cls.model_fields
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say in the API's document what drop_nulls does."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        for name, field in schema["properties"].items():
            if name not in schema.get("required", ()):
                schema["properties"][name] = _or_null(field)
        return reference


def _or_null(field: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a field that may be null as well."""
    about = {name: field[name] for name in ("title", "description", "default", "examples") if name in field}
    kinds = {name: value for name, value in field.items() if name not in about}
    choices = kinds["anyOf"] if kinds.keys() == {"anyOf"} else [kinds]
    if {"type": "null"} in choices:
        return field
    return about | {"anyOf": [*choices, {"type": "null"}]}


class Body(Part):
    """What all three tasks take."""

    model: str | None = Field(None, description="An id from /v1/models; the loaded model when left out.")
    seed: Seed | None = Field(None, description="Drawn and returned when left out; image i uses seed + i.")
    priority: Priority = Field("interactive", description='"batch" gives way to "interactive".')
    deadline_ms: int | None = Field(
        None,
        ge=1,
        le=MAX_DEADLINE_MS,
        description="Refused (429) when it cannot be met, given up (504) when it is missed.",
    )
    metadata: Metadata = Field(default_factory=dict)
    stream: bool = Field(False, description="Answer with server-sent events, the whole answer last.")

    @property
    def deadline_seconds(self) -> float | None:
        """The deadline in the engine's unit."""
        return None if self.deadline_ms is None else self.deadline_ms / 1000


class EndUserBody(Body):
    """Whom a request is made for."""

    user: EndUser | None = Field(
        None, description="An end user's id; written to the log, for abuse to be found."
    )
    safety_identifier: EndUser | None = Field(None, description="The same as user; goes before it.")

    @property
    def end_user(self) -> str | None:
        """The end user's id."""
        return self.safety_identifier or self.user or None


AnyBody = TypeVar("AnyBody", bound=Part)


def validate(schema: type[AnyBody], data: object) -> AnyBody:
    """Check a parsed body against its schema.

    Raises:
        UnknownField: It has a field that the schema does not have.
        InvalidRequest: Anything else is wrong; the message lists every problem.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _refusal(schema, data, error.errors(include_url=False, include_context=False)) from None


def _refusal(schema: type[Part], data: dict[str, Any], problems: Sequence[ErrorDetails]) -> RequestError:
    ordered = sorted(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    paths = [_path(data, problem["loc"]) for problem in ordered]
    sentences = [_sentence(schema, path, problem) for path, problem in zip(paths, ordered, strict=True)]
    kind = UnknownField if ordered[0]["type"] == "extra_forbidden" else InvalidRequest
    return kind("; ".join(dict.fromkeys(sentences[:8])), param=paths[0] or None)


def _path(data: Any, location: Sequence[str | int]) -> str:
    """Return where in the body a problem is, without the names of union members that pydantic adds."""
    keys: list[str] = []
    for index, key in enumerate(location):
        is_last = index == len(location) - 1
        if _holds(data, key):
            data = data[key]
        elif not (is_last and isinstance(data, dict)) or key == "[key]":
            continue
        keys.append(str(key))
    return ".".join(keys)


def _holds(data: Any, key: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(key, int) and key < len(data)
    return isinstance(data, dict) and key in data


def _sentence(schema: type[Part], path: str, problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return f"{path} is required"
    if problem["type"] != "extra_forbidden":
        words = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        return f"{path}: {words}"
    if path in ELSEWHERE and path not in schema.model_fields:
        return f"{path} is not supported here; leave it out"
    close = get_close_matches(path, schema.model_fields, n=1)
    return f"{path} is not a field of this request" + (f"; did you mean {close[0]}?" if close else "")
