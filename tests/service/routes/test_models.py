import threading

from starlette.testclient import TestClient

from model.errors import BadCheckpoint
from service.app import create_app
from service.engine.client import Client
from service.engine.engine import EngineConfig
from service.engine.inline import InlineEngine
from service.engine.job import LoadedModel
from service.settings import Settings
from tests.service.local_client import local_client


def test_the_served_model_is_listed_and_shown(web: TestClient, loaded: LoadedModel) -> None:
    listed = web.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["tiny"]
    assert listed["data"][0]["weights_sha256"] == loaded.card.weights_hash
    assert listed["data"][0]["load_format"] == "auto"
    assert web.get("/v1/models/tiny").json() == listed["data"][0]


def test_before_a_model_is_loaded_its_weights_are_not_known() -> None:
    told = threading.Event()

    def load() -> LoadedModel:
        told.wait(20)
        raise BadCheckpoint("it is too late")

    client = Client(InlineEngine(load, EngineConfig()), model_id="tiny")
    with local_client(create_app(Settings(load_format="random"), client)) as web:
        (card,) = web.get("/v1/models").json()["data"]
        told.set()
    assert card["weights_sha256"] is None
    assert card["load_format"] == "random"


def test_capabilities_are_the_families_own(web: TestClient, loaded: LoadedModel) -> None:
    got, can = web.get("/v1/capabilities").json(), loaded.family.capabilities
    assert got["tasks"] == list(can.tasks)
    assert got["limits"]["size"]["max_side"] == can.max_side
    assert got["defaults"]["num_inference_steps"] == can.num_inference_steps
    assert got["limits"]["max_tokens"] == got["defaults"]["max_tokens"] == 16


def test_the_defaults_that_are_listed_are_those_that_are_used(web: TestClient) -> None:
    defaults = web.get("/v1/capabilities").json()["defaults"]
    said = {name: defaults[name] for name in ("size", "n", "num_inference_steps", "guidance_scale", "solver")}
    left_out = web.post("/v1/generate", json={"prompt": "a", "seed": 1}).json()
    spelled = web.post("/v1/generate", json={"prompt": "a", "seed": 1} | said).json()
    assert spelled["receipt"] == left_out["receipt"]
