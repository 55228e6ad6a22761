"""Whether a picture is ours."""

import asyncio

from fastapi import APIRouter, Request, Response

from service import wire
from service.deps import Service, ServiceDep, TenantDep
from service.routes.responses import GUARDED, body_of
from service.schemas.verify import VerifyAnswer, VerifyRequest
from service.uploads import OPENERS, decode_text, open_one

router = APIRouter(tags=["pictures"], responses=GUARDED)


@router.post(
    "/v1/verify", response_model=VerifyAnswer, openapi_extra=body_of("VerifyRequest", form="VerifyForm")
)
async def verify(request: Request, _: TenantDep, service: ServiceDep) -> Response:
    """Tell whether a picture is ours, and what its file says of where it comes from.

    Takes JSON with the file as a `data:` URL or base64, or `multipart/form-data` with the file in an `image`
    part. Send the file as it is: content credentials are lost when a picture is decoded and encoded again;
    the watermark mostly survives that.
    """
    asked = await wire.read(
        request, VerifyRequest, max_bytes=service.settings.max_body_bytes, takes_form=True
    )
    answer = await asyncio.get_running_loop().run_in_executor(OPENERS, look, service, asked)
    return Response(answer.model_dump_json(), media_type="application/json")


def look(service: Service, asked: VerifyRequest) -> VerifyAnswer:
    """Open the picture and look into its file; raises as uploads.open_one."""
    file = asked.image if isinstance(asked.image, bytes) else decode_text(asked.image, "image")[0]
    return service.provenance.verify(file, open_one(file, "image", service.settings))
