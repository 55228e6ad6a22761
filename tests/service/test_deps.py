from collections.abc import Callable

import pytest

from model.errors import PromptTooLong
from service.app import create_app
from service.deps import Service
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.errors import ModelNotFound
from service.settings import Settings


@pytest.fixture
def service(loaded: LoadedModel, make_client: Callable[..., Client]) -> Service:
    settings = Settings(max_prompt_chars=3, max_tokens=5)
    app = create_app(settings, make_client(loaded))
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
