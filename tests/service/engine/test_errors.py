from service.engine import errors
from service.engine.errors import EngineError, EngineUnavailable


def test_every_error_of_the_engine_is_in_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert all(issubclass(kind, EngineError) for kind in kinds)


def test_what_is_unavailable_says_when_to_come_back() -> None:
    for kind in EngineUnavailable.__subclasses__():
        assert kind("later").retry_after_seconds >= 1
