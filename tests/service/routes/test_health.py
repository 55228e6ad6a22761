from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from model.errors import BadCheckpoint
from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.local_client import local_client


@pytest.mark.parametrize("path", ["/readyz", "/health"])
def test_ready_is_not_said_before_the_warm_up_ends(
    gated_model: LoadedModel,
    gated: Any,
    make_client: Callable[..., Client],
    wait_until: Callable[..., None],
    path: str,
) -> None:
    gated.gate.clear()
    with local_client(create_app(Settings(), make_client(gated_model))) as web:
        wait_until(lambda: gated.num_calls == 1)
        answer = web.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) >= 1
        assert web.get("/livez").status_code == 200
        assert web.post("/v1/generate", json={"prompt": "a"}).status_code == 503
        assert web.get("/v1/capabilities").status_code == 503
        assert web.get("/v1/models").status_code == 200
        gated.gate.set()
        wait_until(lambda: web.get(path).status_code == 200)
        assert web.get(path).json() == {"status": "ready"}


def test_draining_is_not_ready(gated_web: TestClient) -> None:
    gated_web.app.state.service.client.drain()  # type: ignore[attr-defined]
    answer = gated_web.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert gated_web.get("/livez").status_code == 200


def test_an_engine_on_its_way_up_again_is_not_ready(
    gated_web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InlineEngine, "is_up", False)
    for answer in (gated_web.get("/readyz"), gated_web.post("/v1/generate", json={"prompt": "a"})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_restarting")
        assert int(answer.headers["retry-after"]) >= 1
    assert gated_web.get("/livez").status_code == 200


def test_a_model_that_cannot_be_loaded_is_never_ready(
    wait_until: Callable[..., None], settings: Settings
) -> None:
    def load() -> LoadedModel:
        raise BadCheckpoint("missing everything")

    client = Client(InlineEngine(load, EngineConfig()), model_id="none")
    with local_client(create_app(settings, client)) as web:
        wait_until(lambda: "could not" in web.get("/readyz").json()["error"]["message"])
        assert web.get("/livez").json() == {"status": "alive"}


def test_metrics_are_in_prometheus_form(web: TestClient) -> None:
    answer = web.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'hbridge_build_info{model="tiny",version=' in answer.text
