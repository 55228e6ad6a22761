from service.routes.responses import EVENTS, body_of, stream_of


def test_a_body_may_be_json_or_a_form() -> None:
    content = body_of("A", form="B")["requestBody"]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith("/A")
    assert content["multipart/form-data"]["schema"]["$ref"].endswith("/B")
    assert list(body_of("A")["requestBody"]["content"]) == ["application/json"]


def test_a_stream_may_end_with_an_error() -> None:
    data = stream_of("A")[EVENTS]["schema"]["properties"]["data"]
    references = [each["$ref"] for each in data["contentSchema"]["oneOf"]]
    assert [reference.rpartition("/")[2] for reference in references] == ["A", "ErrorAnswer"]
