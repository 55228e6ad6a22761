"""The web application: built from settings and an engine's client, both given; two can live at once."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from service.access import Access
from service.deps import Service
from service.engine.client import Client
from service.errors import add_error_handlers
from service.metrics import Metrics
from service.openapi import document
from service.routes import drawing, health, models, playground, understand
from service.settings import Settings
from service.tracing import create_tracing

DESCRIPTION = """One model that makes, edits and understands images.

Every error has the form `{"error": {"message", "type", "param", "code"}}`. Fields that are not known are
refused, never dropped. `GET /v1/capabilities` lists limits and defaults of the loaded model."""


class App(FastAPI):
    """FastAPI with a document of our own."""

    def openapi(self) -> dict[str, Any]:
        """Return the API's document, made once."""
        if not self.openapi_schema:
            self.openapi_schema = document(self)
        return self.openapi_schema


def create_app(settings: Settings, client: Client) -> FastAPI:
    """Build an app; its lifespan starts and stops the client."""
    metrics = Metrics()
    metrics.describe(
        model=client.model_id,
        num_running=lambda: client.num_running,
        status=lambda: client.status,
        peak_flops=settings.peak_flops,
    )
    client.watch(metrics)
    tracing = create_tracing(settings, client.model_id)
    client.follow(tracing.follow)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await client.start()
            yield
        finally:
            await client.stop()
            await tracing.stop()

    app = App(
        title="hbridge",
        version=version("hbridge"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        # Its own tells the words of errors, and says of a stream that failed that all was well.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = Service(settings=settings, client=client, metrics=metrics, created=int(time.time()))
    for module in (drawing, understand, models, health, playground):
        app.include_router(module.router)
    add_error_handlers(app)
    app.add_middleware(Access, metrics=metrics, tracing=tracing)
    return app
