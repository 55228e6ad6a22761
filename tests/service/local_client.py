"""Clients of an app in this process, and keys for them."""

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from service.deps import Service
from service.tenant import SCOPES


def local_client(app: FastAPI, **given: Any) -> TestClient:
    """Return a client that comes from this machine, and needs no key while none is configured."""
    return TestClient(app, client=("127.0.0.1", 50000), base_url="http://127.0.0.1", **given)


def service_of(web: TestClient) -> Service:
    """Return the parts of a client's app."""
    service = web.app.state.service  # type: ignore[attr-defined]
    assert isinstance(service, Service)
    return service


def make_key(web: TestClient, **given: Any) -> dict[str, str]:
    """Make a key for a running app, with all scopes unless told otherwise; return its header."""
    wanted = {"name": "key", "tenant": "ann", "scopes": SCOPES} | given
    assert web.portal
    text = web.portal.call(partial(service_of(web).keys.create, **wanted))
    return {"Authorization": f"Bearer {text}"}
