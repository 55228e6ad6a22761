"""What every route gets, by hand, from the app it belongs to."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from model.errors import PromptTooLong
from service import origin
from service.auth import Auth
from service.database import Database
from service.engine.client import Client
from service.errors import ModelNotFound
from service.fetch import Fetcher
from service.key_store import KeyStore
from service.links import Links
from service.metrics import Metrics
from service.provenance import Provenance
from service.quotas import Quotas
from service.rates import Rates
from service.settings import Settings
from service.store import Store
from service.tenant import SCOPES, Scope, Tenant

BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="hb-ID-SECRET",
    description="A key of `hbridge keys create`. Where none was ever made, this machine alone is served, "
    "without one.",
    auto_error=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One app's parts.

    Attributes:
        created: When the app was made, Unix seconds.
    """

    settings: Settings
    client: Client
    fetcher: Fetcher
    metrics: Metrics
    provenance: Provenance
    database: Database
    keys: KeyStore
    auth: Auth
    rates: Rates
    quotas: Quotas
    store: Store
    links: Links
    created: int

    @property
    def default_max_tokens(self) -> int:
        """Most tokens of an answer when a request does not say."""
        return min(self.settings.default_max_tokens, self.settings.max_tokens)

    async def open_storage(self) -> None:
        """See that what must outlive the server can be kept where the settings say; may come twice.

        Raises:
            OSError: Says why not.
        """
        try:
            await self.database.start()
            await self.store.start()
            self.links.start()
        except OSError:
            await self.database.stop()
            raise

    async def admit(self, tenant: Tenant, *scopes: Scope) -> None:
        """Let a tenant ask for work, once.

        Raises:
            MissingScope: Its key lacks one of the scopes.
            RateLimited: It comes too often.
            QuotaExhausted: It has used up its device-seconds.
        """
        tenant.check_scopes(*scopes)
        await self.rates.check(tenant)
        await self.quotas.check(tenant)

    def check_model(self, asked: str | None) -> None:
        """Refuse a model that is not served.

        Raises:
            ModelNotFound: Names the one that is.
        """
        if asked not in (None, self.client.model_id):
            raise ModelNotFound(
                f"model {asked[:80]!r} is not served; {self.client.model_id!r} is", param="model"
            )

    def check_text(self, text: str, param: str) -> None:
        """Refuse words beyond the limit.

        Raises:
            PromptTooLong: Says how many there may be.
        """
        if len(text) > self.settings.max_prompt_chars:
            raise PromptTooLong(
                f"{param} has {len(text)} characters, {self.settings.max_prompt_chars} at most", param=param
            )


async def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


async def _tenant(
    request: Request,
    service: Annotated[Service, Depends(_service)],
    asked: SecurityScopes,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
) -> Tenant:
    tenant = await service.auth.identify(
        given.credentials if given else None,
        is_local=origin.is_local(request),
        network=origin.network_of(request),
    )
    request.state.tenant = tenant.name
    tenant.check_scopes(*_scopes(asked))
    return tenant


async def _admitted(
    service: Annotated[Service, Depends(_service)],
    tenant: Annotated[Tenant, Depends(_tenant)],
) -> Tenant:
    await service.admit(tenant)
    return tenant


def _scopes(asked: SecurityScopes) -> list[Scope]:
    scopes = [scope for scope in SCOPES if scope in asked.scopes]
    assert len(scopes) == len(asked.scopes), "a route asks for scopes that there are"
    return scopes


async def _ready_service(service: Annotated[Service, Depends(_service)]) -> Service:
    service.client.check_ready()
    return service


async def _request_id(request: Request) -> str:
    return str(request.state.request_id)


ServiceDep = Annotated[Service, Depends(_service)]
ReadyServiceDep = Annotated[Service, Depends(_ready_service)]
RequestIdDep = Annotated[str, Depends(_request_id)]

# Who asks: by any good key, or by one with a scope; for work also within rate and quotas.
TenantDep = Annotated[Tenant, Security(_tenant)]
MetricsTenantDep = Annotated[Tenant, Security(_tenant, scopes=["metrics"])]
JobsTenantDep = Annotated[Tenant, Security(_tenant, scopes=["jobs"])]
GenerateTenantDep = Annotated[Tenant, Security(_admitted, scopes=["generate"])]
EditTenantDep = Annotated[Tenant, Security(_admitted, scopes=["edit"])]
UnderstandTenantDep = Annotated[Tenant, Security(_admitted, scopes=["understand"])]
