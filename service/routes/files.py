"""Pictures at the addresses that answers say."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.deps import ServiceDep
from service.routes.responses import FILES, REFUSALS

router = APIRouter(tags=["jobs"], responses=REFUSALS)


@router.get("/v1/files/{name}", response_class=Response, responses={200: {"content": FILES}})
async def show_file(
    name: str,
    service: ServiceDep,
    expires: Annotated[str, Query(description="Until when the link is valid, Unix seconds.")] = "",
    signature: str = "",
) -> Response:
    """Give a picture that an answer has linked to.

    Links are signed and valid for a while: whoever has one needs nothing else, and nobody can guess one.
    """
    left = service.links.check(name, expires, signature)
    headers = {"Cache-Control": f"private, max-age={left}, immutable", "X-Content-Type-Options": "nosniff"}
    kind = name.rpartition(".")[2]
    return Response(await service.store.get(name), media_type=f"image/{kind}", headers=headers)
