import pytest

from service.errors import InvalidRequest, UnknownField
from service.schemas.body import validate
from service.schemas.drawing import EditRequest, GenerateRequest


def test_null_means_left_out() -> None:
    fields = GenerateRequest.model_fields.keys() - {"prompt"}
    asked = validate(GenerateRequest, {"prompt": "a"} | dict.fromkeys(fields))
    assert asked == GenerateRequest(prompt="a")


def test_an_unknown_field_goes_before_other_problems() -> None:
    with pytest.raises(UnknownField, match="did you mean seed") as refusal:
        validate(GenerateRequest, {"sead": 1, "n": 0})
    assert refusal.value.param == "sead"


@pytest.mark.parametrize("data", [None, [], "a", 1])
def test_only_an_object_is_a_body(data: object) -> None:
    with pytest.raises(InvalidRequest, match="JSON object"):
        validate(GenerateRequest, data)


def test_one_image_is_a_list_of_one() -> None:
    assert validate(EditRequest, {"prompt": "a", "image": "x"}).image == ["x"]
    assert validate(EditRequest, {"prompt": "a", "image": [b"x", "y"]}).image == [b"x", "y"]


def test_a_refusal_never_shows_what_came_in() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        validate(GenerateRequest, {"prompt": ["my secret"]})
    assert "secret" not in str(refusal.value)
