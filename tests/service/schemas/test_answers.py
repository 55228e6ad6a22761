from service.schemas import answers
from service.schemas.answers import Answer, ErrorAnswer


def test_an_answer_does_not_change_once_made() -> None:
    kinds = [kind for kind in vars(answers).values() if isinstance(kind, type) and issubclass(kind, Answer)]
    assert all(kind.model_config["frozen"] for kind in kinds)


def test_the_envelope_of_errors_has_four_fields() -> None:
    error = {"message": "m", "type": "t", "param": None, "code": "c"}
    assert ErrorAnswer.model_validate({"error": error}).model_dump() == {"error": error}
