from service.routes.responses import body_of


def test_a_body_may_be_json_or_a_form() -> None:
    content = body_of("A", form="B")["requestBody"]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith("/A")
    assert content["multipart/form-data"]["schema"]["$ref"].endswith("/B")
    assert list(body_of("A")["requestBody"]["content"]) == ["application/json"]
