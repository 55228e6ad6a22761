"""For those who keep the service running: is it alive, is it ready, what does it count."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.deps import MetricsTenantDep, ReadyServiceDep, ServiceDep
from service.routes.responses import GUARDED, REFUSALS
from service.schemas.answers import Health

router = APIRouter(tags=["operation"], responses=REFUSALS)


@router.get("/livez")
async def livez() -> Health:
    """Say that the process answers. Restart it when this fails."""
    return Health(status="alive")


@router.get("/readyz")
async def readyz(service: ReadyServiceDep) -> Health:
    """Say whether jobs are taken: 503 until the model is warmed up, while it restarts, and while draining."""
    return Health(status=service.client.state.value)


@router.get("/health")
async def health(service: ReadyServiceDep) -> Health:
    """Say the same as `/readyz`."""
    return Health(status=service.client.state.value)


@router.get("/metrics", response_class=Response, responses=GUARDED | {200: {"content": {"text/plain": {}}}})
async def metrics(_: MetricsTenantDep, service: ServiceDep) -> Response:
    """Give every counter in Prometheus' text form."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
