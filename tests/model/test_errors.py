import pytest

from model import errors
from model.errors import BadRequest, ModelError

ALL = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_a_model_error_and_in_the_tree_above(error: type[Exception]) -> None:
    assert issubclass(error, ModelError)
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", [error for error in ALL if issubclass(error, BadRequest)])
def test_a_bad_request_names_its_field(error: type[BadRequest]) -> None:
    assert error("no", param="size").param == "size"
    assert error("no").param in (None, "image")
