"""What every route gets, by hand, from the app it belongs to."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from model.errors import PromptTooLong
from service.database import Database
from service.engine.client import Client
from service.errors import ModelNotFound
from service.links import Links
from service.metrics import Metrics
from service.settings import Settings
from service.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One app's parts.

    Attributes:
        created: When the app was made, Unix seconds.
    """

    settings: Settings
    client: Client
    metrics: Metrics
    database: Database
    store: Store
    links: Links
    created: int

    @property
    def default_max_tokens(self) -> int:
        """Most tokens of an answer when a request does not say."""
        return min(self.settings.default_max_tokens, self.settings.max_tokens)

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


async def _ready_service(service: Annotated[Service, Depends(_service)]) -> Service:
    service.client.check_ready()
    return service


async def _request_id(request: Request) -> str:
    return str(request.state.request_id)


async def _tenant(request: Request) -> str:
    return str(getattr(request.state, "tenant", ""))


ServiceDep = Annotated[Service, Depends(_service)]
ReadyServiceDep = Annotated[Service, Depends(_ready_service)]
RequestIdDep = Annotated[str, Depends(_request_id)]
TenantDep = Annotated[str, Depends(_tenant)]
