import pytest

from service.errors import InvalidRequest, UnknownField
from service.schemas.body import validate
from service.schemas.drawing import EditRequest, GenerateRequest, chosen_size
from service.schemas.openai_images import ImagesEditsRequest, ImagesGenerationsRequest


def test_every_field_of_ours_may_come_along() -> None:
    assert GenerateRequest.model_fields.keys() <= ImagesGenerationsRequest.model_fields.keys()
    assert EditRequest.model_fields.keys() <= ImagesEditsRequest.model_fields.keys()


def test_a_size_may_be_left_to_the_model() -> None:
    asked = validate(ImagesGenerationsRequest, {"prompt": "a", "size": "auto"})
    assert chosen_size(asked) is None


def test_the_newer_name_of_an_end_user_goes_first() -> None:
    both = validate(ImagesGenerationsRequest, {"prompt": "a", "user": "old", "safety_identifier": "new"})
    assert both.end_user == "new"
    assert validate(ImagesGenerationsRequest, {"prompt": "a", "user": "old"}).end_user == "old"
    assert validate(ImagesGenerationsRequest, {"prompt": "a", "user": ""}).end_user is None


def test_what_only_other_models_can_do_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="quality: must be 'auto'"):
        validate(ImagesGenerationsRequest, {"prompt": "a", "quality": "high"})
    with pytest.raises(UnknownField, match="style is not supported here"):
        validate(ImagesGenerationsRequest, {"prompt": "a", "style": "vivid"})
