"""From a request's bytes to a checked body: size, content type, syntax, schema, in this order."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator
from typing import Any, get_args

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from service.schemas.body import AnyBody, Part, validate

JSON = "application/json"
FORM = "multipart/form-data"
IMAGES = frozenset({"image", "images"})
FILES = IMAGES | {"mask"}
BRACKETS = re.compile(r"([^\[\]]+)\[(.*)\]", re.DOTALL)
MAX_PARTS = 64


class Form(MultiPartParser):
    """Keeps every part in memory: the body as a whole is capped."""

    spool_max_size = sys.maxsize


async def read(
    request: Request, schema: type[AnyBody], *, max_bytes: int, takes_form: bool = False
) -> AnyBody:
    """Read and check a request's body.

    Raises:
        UnsupportedMediaType: It is not of a type that is read here; nothing was read.
        BodyTooLarge: It is too long; it was read only so far.
        InvalidRequest: Its syntax or a field is wrong.
        UnknownField: It has a field too many.
    """
    kind = content_type(request, (JSON, FORM) if takes_form else (JSON,))
    stream = capped(request, max_bytes)
    if kind == FORM:
        return validate(schema, await _form_fields(request, stream, schema, max_bytes))
    body = b"".join([chunk async for chunk in stream])
    return await asyncio.to_thread(lambda: validate(schema, parse_json(body)))


def content_type(request: Request, accepted: tuple[str, ...]) -> str:
    """Return the body's content type without its parameters.

    Raises:
        UnsupportedMediaType: It is not accepted, or the body is compressed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in accepted:
        raise UnsupportedMediaType(
            f"content-type {kind[:80] or 'is missing'}; it must be {' or '.join(accepted)}"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body without content-encoding")
    return kind


async def capped(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body until it is too long.

    Raises:
        BodyTooLarge: Before anything is read when the length is announced, else as soon as it is too long.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise BodyTooLarge(f"the body has {length} bytes, {max_bytes} at most")
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyTooLarge(f"the body has more than {max_bytes} bytes")
        yield chunk


def parse_json(body: bytes) -> Any:
    """Parse JSON as the standard has it: no NaN, no name twice in an object.

    Raises:
        InvalidRequest: It is not JSON.
    """
    try:
        return json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {str(error)[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"{twice[:80]} is given twice", param=twice[:80])
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


async def _form_fields(
    request: Request, stream: AsyncGenerator[bytes, None], schema: type[Part], max_bytes: int
) -> dict[str, Any]:
    parser = Form(request.headers, stream, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=max_bytes)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"the form cannot be read: {error.message}") from None
    try:
        return await _gather(form, schema)
    finally:
        await form.close()


async def _gather(form: FormData, schema: type[Part]) -> dict[str, Any]:
    """Return the form as the same JSON body would be: files as bytes, numbers as numbers.

    Parts of one name with brackets are a list, `name[]`, or an object, `name[key]`, as the OpenAI clients and
    browsers send them; images are a list in any case.
    """
    data: dict[str, Any] = {}
    for part, value in form.multi_items():
        name, key = _address(part)
        if isinstance(value, UploadFile):
            if name not in FILES:
                raise InvalidRequest(f"{part} is a file; files go into image, image[] or mask", param=part)
            item: Any = await value.read()
        else:
            item = value if key or name in FILES or _is_text(schema, name) else _number_or_text(value)
        _put(data, name, key, item)
    return data


def _address(part: str) -> tuple[str, str | None]:
    """Return a part's field, and its place in it: None for all of it, "" for the next of a list."""
    found = BRACKETS.fullmatch(part)
    name, key = (found[1], found[2]) if found else (part, None)
    return ("image", "") if name in IMAGES and not key else (name, key)


def _put(data: dict[str, Any], name: str, key: str | None, item: Any) -> None:
    held = data.get(name, [] if key == "" else {})
    if key == "" and isinstance(held, list):
        data[name] = [*held, item]
    elif key and isinstance(held, dict) and key not in held:
        data[name] = held | {key: item}
    elif key is None and name not in data:
        data[name] = item
    else:
        raise InvalidRequest(f"{name} is given twice", param=name)


def _is_text(schema: type[Part], name: str) -> bool:
    field = schema.model_fields.get(name)
    return field is None or field.annotation is str or str in get_args(field.annotation)


def _number_or_text(value: str) -> Any:
    try:
        return parse_json(value.encode())
    except InvalidRequest:
        return value
