"""The web application: built from settings and an engine's client, both given; two can live at once."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from service.access import Access
from service.allowance import UNLIMITED, parse_quotas
from service.auth import Auth
from service.database import Database
from service.deps import Service
from service.engine.client import Client
from service.engine.observer import Observers
from service.errors import add_error_handlers
from service.fetch import Fetcher
from service.jobs import Jobs
from service.key_store import KeyStore
from service.links import Links
from service.metrics import Metrics
from service.openapi import document
from service.provenance import Provenance
from service.quotas import Quotas
from service.rates import Rates
from service.routes import drawing, files, health, models, openai, playground, understand, verify
from service.routes import jobs as jobs_routes
from service.settings import Settings
from service.store import Store
from service.tracing import create_tracing
from service.usage import Usage

log = logging.getLogger(__name__)

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
    tracing = create_tracing(settings, client.model_id)
    client.follow(tracing.follow)
    fetcher = Fetcher(settings, on_refused=metrics.fetch_blocked)
    database = Database(settings.database)
    keys = KeyStore(database)
    rates = Rates(settings.limits_storage_url.get_secret_value(), default=settings.default_rate)
    quotas = Quotas(Usage(database), default=parse_quotas(settings.default_quotas or UNLIMITED))
    auth = Auth(keys, rates)
    client.watch(Observers(metrics, quotas))
    store = Store(database, settings.store)
    links = Links(
        settings.link_key.get_secret_value().encode() if settings.link_key else None,
        key_file=settings.data_dir / "link-key",
        seconds=settings.link_seconds,
        public_url=settings.public_url,
    )
    service = Service(
        settings=settings,
        client=client,
        fetcher=fetcher,
        metrics=metrics,
        provenance=Provenance(settings),
        database=database,
        keys=keys,
        auth=auth,
        rates=rates,
        quotas=quotas,
        store=store,
        links=links,
        created=int(time.time()),
    )
    jobs = Jobs(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await service.open_storage()
            await client.start()
            await quotas.start()
            if file := settings.bootstrap_key_file:
                await keys.bootstrap(file.read_text().strip())
            if warning := await auth.warning(settings.host):
                log.warning(warning)
            await jobs.start()
            yield
        finally:
            await jobs.stop()
            await client.stop()
            await tracing.stop()
            await fetcher.close()
            await quotas.stop()
            await rates.stop()
            await database.stop()

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
    app.state.service, app.state.jobs = service, jobs
    for module in (drawing, understand, openai, jobs_routes, files, models, verify, health, playground):
        app.include_router(module.router)
    add_error_handlers(app)
    app.add_middleware(Access, metrics=metrics, tracing=tracing)
    return app
