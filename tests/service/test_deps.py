import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from model.errors import PromptTooLong
from service.app import create_app
from service.deps import Service
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.engine.scheduler import SchedulerConfig
from service.errors import ModelNotFound
from service.key_store import Limits
from service.settings import Settings
from service.tenant import SCOPES
from tests.service.local_client import local_client, make_key, service_of

OPEN, SIGNED, ANY = "open", "signed link", "any key"

# Who may use a route: everybody, who has a signed link, every key, or keys with a scope.
ROUTES = {
    "GET /": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /openapi.json": OPEN,
    "GET /livez": OPEN,
    "GET /readyz": OPEN,
    "GET /health": OPEN,
    "GET /playground/{name}": OPEN,
    "GET /metrics": "metrics",
    "GET /v1/models": ANY,
    "GET /v1/models/{model_id:path}": ANY,
    "GET /v1/capabilities": ANY,
    "POST /v1/generate": "generate",
    "POST /v1/edit": "edit",
    "POST /v1/understand": "understand",
    "POST /v1/images/generations": "generate",
    "POST /v1/images/edits": "edit",
    "POST /v1/chat/completions": ANY,
    "POST /v1/jobs": "jobs",
    "GET /v1/jobs/{job_id}": "jobs",
    "GET /v1/jobs/{job_id}/events": "jobs",
    "DELETE /v1/jobs/{job_id}": "jobs",
    "GET /v1/files/{name}": SIGNED,
    "POST /v1/verify": ANY,
}
GUARDED = {route: scope for route, scope in ROUTES.items() if scope not in (OPEN, SIGNED)}


@pytest.fixture
def service(loaded: LoadedModel, make_client: Callable[..., Client]) -> Service:
    app = create_app(Settings(max_prompt_chars=3, max_tokens=5), make_client(loaded))
    assert isinstance(app.state.service, Service)
    return app.state.service


def test_only_the_served_model_is_found(service: Service) -> None:
    service.check_model(None)
    service.check_model("tiny")
    with pytest.raises(ModelNotFound, match="tiny"):
        service.check_model("other")


def test_words_are_counted_in_characters(service: Service) -> None:
    service.check_text("äöü", "prompt")
    with pytest.raises(PromptTooLong) as refusal:
        service.check_text("abcd", "prompt")
    assert refusal.value.param == "prompt"


def test_a_default_is_never_beyond_the_limit(service: Service) -> None:
    assert service.default_max_tokens == 5


def routes_of(routes: Iterable[BaseRoute]) -> Iterator[str]:
    """Yield each method and path of an app."""
    for route in routes:
        if isinstance(route, Route):
            yield from (f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"})
        else:
            yield from routes_of(route.original_router.routes)  # type: ignore[attr-defined]


def ask(web: TestClient, route: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Ask for as little as possible; return the status and the error's code."""
    method, path = re.sub(r"\{.*?\}", "tiny", route.replace("{name}", "page.js")).split()
    body = {"json": {}} if method == "POST" else {}
    answer = web.request(method, path, headers=headers, **body)
    return answer.status_code, answer.json()["error"]["code"] if answer.status_code >= 400 else ""


def test_every_route_says_who_may_use_it(keyed_web: TestClient) -> None:
    assert set(routes_of(keyed_web.app.routes)) == ROUTES.keys()  # type: ignore[attr-defined]


def test_what_is_open_needs_no_key(keyed_web: TestClient) -> None:
    for route, wanted in ROUTES.items():
        if wanted == OPEN:
            assert ask(keyed_web, route)[0] == 200, route
        elif wanted == SIGNED:
            assert ask(keyed_web, route) == (403, "invalid_link"), route


def test_what_is_guarded_needs_a_key_with_its_scope_or_an_admins(keyed_web: TestClient) -> None:
    keys = {scope: make_key(keyed_web, tenant=scope, scopes=[scope]) for scope in SCOPES}
    wrong = {"Authorization": "Bearer hb-000000000000-" + "a" * 43}
    for route, wanted in GUARDED.items():
        for headers in (None, wrong, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
            assert ask(keyed_web, route, headers) == (401, "invalid_api_key"), route
        for scope, headers in keys.items():
            status, code = ask(keyed_web, route, headers)
            assert (code == "missing_scope") is (wanted not in (ANY, scope) and scope != "admin"), route
            assert status in (200, 400, 403, 404), route


def test_the_document_says_what_a_route_needs(keyed_web: TestClient) -> None:
    document = keyed_web.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for route, wanted in ROUTES.items():
        method, path = route.replace(":path", "").split()
        if not (operation := document["paths"].get(path, {}).get(method.lower())):
            continue
        scopes = [] if wanted == ANY else [wanted]
        assert operation.get("security", OPEN) == (OPEN if wanted in (OPEN, SIGNED) else [{"key": scopes}])
        assert ({"401", "403", "429"} <= operation["responses"].keys()) is (wanted not in (OPEN, SIGNED))


def test_a_refusal_says_how_to_come_back(keyed_web: TestClient) -> None:
    answer = keyed_web.get("/v1/models")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json()["error"]["message"]


@pytest.mark.parametrize("client", ["203.0.113.9", "10.0.0.1", "2001:db8::1"])
def test_without_keys_other_machines_are_told_how_to_make_one(web: TestClient, client: str) -> None:
    elsewhere = TestClient(web.app, client=(client, 1), base_url="http://127.0.0.1")
    for route in GUARDED:
        assert ask(elsewhere, route, {"X-Forwarded-For": "127.0.0.1"}) == (401, "invalid_api_key")
        assert ask(web, route)[0] in (200, 400, 404)
    assert "hbridge keys create" in elsewhere.get("/v1/models").json()["error"]["message"]
    assert elsewhere.get("/readyz").status_code == 200


DRAW = {"prompt": "a red circle", "num_inference_steps": 1}


def test_a_rate_is_the_tenants_whichever_of_its_keys_comes(keyed_web: TestClient) -> None:
    service = service_of(keyed_web)
    limits = service.keys.set_limits
    first, second, other = (make_key(keyed_web, tenant=name) for name in ("ann", "ann", "bob"))
    assert keyed_web.portal
    keyed_web.portal.call(limits, "ann", Limits(rate="2/hour"))
    keyed_web.portal.call(limits, "bob", Limits(rate="2/hour"))
    for key in (first, second):
        assert keyed_web.post("/v1/generate", json=DRAW, headers=key).status_code == 200
    answer = keyed_web.post("/v1/understand", json={}, headers=second)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert keyed_web.get("/v1/models", headers=first).status_code == 200
    assert keyed_web.post("/v1/generate", json=DRAW, headers=other).status_code == 200


def test_who_has_used_up_its_device_seconds_is_refused_also_after_a_restart(
    keyed_web: TestClient, settings: Settings, loaded: LoadedModel, make_client: Callable[..., Client]
) -> None:
    ann, bob = (
        make_key(keyed_web, tenant=name, limits=Limits(quotas="0.000001/day")) for name in ("ann", "bob")
    )
    assert keyed_web.post("/v1/generate", json=DRAW, headers=ann).status_code == 200
    with local_client(create_app(settings, make_client(loaded))) as restarted:
        for web in (keyed_web, restarted):
            answer = web.post("/v1/understand", json={}, headers=ann)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exhausted")
            assert 0 < int(answer.headers["retry-after"]) <= 24 * 3600
    assert keyed_web.post("/v1/generate", json=DRAW, headers=bob).status_code == 200


def test_what_a_tenant_asked_is_not_cached_for_another(keyed_web: TestClient) -> None:
    ann, bob = (make_key(keyed_web, tenant=name) for name in ("ann", "bob"))
    usages = [
        keyed_web.post("/v1/generate", json=DRAW, headers=key).json()["usage"] for key in (ann, bob, ann, bob)
    ]
    cached = [usage["cached_prompt_tokens"] for usage in usages]
    assert cached[0] == cached[1] < cached[2] == cached[3]


def test_a_refusal_is_counted_and_the_log_says_whose_request_it_was(
    keyed_web: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = make_key(keyed_web, tenant="ann", scopes=["edit", "metrics"])
    keyed_web.post("/v1/generate", json=DRAW)
    keyed_web.post("/v1/generate", json=DRAW, headers=key)
    counted = keyed_web.get("/metrics", headers=key).text
    for reason in ("invalid_api_key", "missing_scope"):
        assert f'hbridge_requests_rejected_total{{reason="{reason}"}} 1.0' in counted
    lines = [record.__dict__ for record in caplog.records if record.getMessage() == "request"]
    assert [line.get("tenant") for line in lines] == [None, "ann", "ann"]
    secret = key["Authorization"][24:]
    assert len(secret) > 40
    assert not any(secret in str(record.__dict__) for record in caplog.records)


def test_the_heavier_tenant_is_done_first_though_it_asks_for_more(
    gated_model: LoadedModel, gated: Any, settings: Settings, wait_until: Callable[..., None]
) -> None:
    config = EngineConfig(scheduling=SchedulerConfig(max_rows=1))
    client = Client(InlineEngine(lambda: gated_model, config), model_id="tiny")
    done: list[str] = []

    def draw(web: TestClient, tenant: str, key: dict[str, str], num_steps: int) -> None:
        body = {"prompt": tenant, "num_inference_steps": num_steps, "guidance_scale": 1}
        assert web.post("/v1/generate", json=body, headers=key).status_code == 200
        done.append(tenant)

    with local_client(create_app(settings, client)) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200)
        heavy = make_key(web, tenant="heavy", limits=Limits(weight=100.0))
        light = make_key(web, tenant="light")
        gated.gate.clear()
        drawing = [
            threading.Thread(target=draw, args=(web, "light", light, 20)),
            threading.Thread(target=draw, args=(web, "heavy", heavy, 40)),
        ]
        for number, thread in enumerate(drawing, 1):
            thread.start()
            wait_until(lambda number=number: client.num_waiting + client.num_running == number)
        gated.gate.set()
        for thread in drawing:
            thread.join(30)
    assert done == ["heavy", "light"]
