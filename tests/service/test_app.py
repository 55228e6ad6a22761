import asyncio
import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from model.errors import InvalidImage
from service.app import create_app
from service.engine.client import Client, State
from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.local_client import local_client


def test_two_apps_live_at_once_each_with_its_own_limits(
    loaded: LoadedModel, make_client: Callable[..., Client], wait_until: Callable[..., None]
) -> None:
    apps = [create_app(Settings(max_prompt_chars=limit), make_client(loaded)) for limit in (1, 2)]
    with local_client(apps[0]) as one, local_client(apps[1]) as other:
        for web in (one, other):
            wait_until(lambda web=web: web.get("/readyz").status_code == 200)
        body = {"prompt": "ab", "num_inference_steps": 1}
        assert one.post("/v1/generate", json=body).status_code == 400
        assert other.post("/v1/generate", json=body).status_code == 200


def test_the_lifespan_stops_what_it_started(loaded: LoadedModel, make_client: Callable[..., Client]) -> None:
    client = make_client(loaded)
    with local_client(create_app(Settings(), client)):
        assert client.state in (State.LOADING, State.READY)
    assert client.state is State.DRAINING
    assert client.num_running == client.num_waiting == 0


def blocked(web: TestClient) -> float:
    found = re.search(r'hbridge_fetch_blocked_total{reason="disabled"} (.*)', web.get("/metrics").text)
    return float(found[1]) if found else 0.0


def test_what_an_app_does_not_fetch_it_counts(web: TestClient) -> None:
    app = web.app
    assert isinstance(app, FastAPI)
    before = blocked(web)
    with pytest.raises(InvalidImage):
        asyncio.run(app.state.service.fetcher.fetch("https://images.example/a.png", param="image"))
    assert blocked(web) == before + 1


def test_the_documentation_page_is_there(web: TestClient) -> None:
    assert "openapi.json" in web.get("/docs").text
