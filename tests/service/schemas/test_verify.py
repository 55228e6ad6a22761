import pytest

from service.errors import InvalidRequest, UnknownField
from service.schemas.body import validate
from service.schemas.verify import VerifyRequest


def test_one_image_is_taken_also_as_a_list_of_one() -> None:
    assert validate(VerifyRequest, {"image": "abc"}) == validate(VerifyRequest, {"image": ["abc"]})
    assert validate(VerifyRequest, {"image": [b"abc"]}).image == b"abc"


@pytest.mark.parametrize("image", [["a", "b"], [], "", 1, None])
def test_anything_but_one_image_is_refused(image: object) -> None:
    with pytest.raises(InvalidRequest, match="image"):
        validate(VerifyRequest, {"image": image})


def test_it_has_no_other_field() -> None:
    with pytest.raises(UnknownField, match="seed"):
        validate(VerifyRequest, {"image": "abc", "seed": 1})
