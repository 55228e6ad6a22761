"""The playground: one page that uses the API, and the files that it is made of."""

from functools import cache
from importlib.resources import files
from mimetypes import guess_type

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from service.deps import ServiceDep

NAMES = frozenset({"page.css", "page.js", "api.js", "mask.js", "copies.js", "icon.svg"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show_page(service: ServiceDep) -> Response:
    """Show the page, unless the operator turned it off."""
    return _file(service.settings.playground, "index.html")


@router.get("/playground/{name}")
async def show_file(name: str, service: ServiceDep) -> Response:
    """Show one of the page's files."""
    return _file(service.settings.playground and name in NAMES, name)


def _file(is_there: bool, name: str) -> Response:
    if not is_there:
        raise HTTPException(404)
    return Response(_content(name), media_type=guess_type(name)[0], headers=HEADERS)


@cache
def _content(name: str) -> bytes:
    return (files("service") / "playground" / name).read_bytes()
