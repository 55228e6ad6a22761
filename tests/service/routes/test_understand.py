from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from model.images import open_image
from model.pipeline import answer
from model.prompt import Turn
from model.question import Question
from service.engine.job import LoadedModel


def test_understand_answers_the_pipelines_words(
    web: TestClient, loaded: LoadedModel, png: Callable[..., bytes], png64: Callable[..., str]
) -> None:
    got = web.post("/v1/understand", json={"prompt": "What?", "image": png64(), "max_tokens": 4}).json()
    question = Question(turns=(Turn("user", (open_image(png()), "What?")),), max_tokens=4)
    wanted = answer(loaded.family, question)
    assert (got["answer"], got["finish_reason"]) == (wanted.text, wanted.finish_reason)
    assert got["usage"]["prompt_tokens"] == wanted.usage.prompt_tokens
    assert got["usage"]["completion_tokens"] == wanted.usage.completion_tokens
    assert set(got) == {
        *(
            "id",
            "created",
            "model",
            "answer",
            "finish_reason",
            "usage",
            "timings",
            "seed",
            "metadata",
            "warnings",
        )
    }


def test_a_prompt_is_a_conversation_of_one_turn(web: TestClient, png64: Callable[..., str]) -> None:
    url = {"type": "image_url", "image_url": {"url": png64(), "detail": "auto"}}
    message = {"role": "user", "content": [url, {"type": "text", "text": "What?"}]}
    asked = web.post("/v1/understand", json={"prompt": "What?", "images": [png64()], "max_tokens": 4}).json()
    told = web.post("/v1/understand", json={"messages": [message], "max_tokens": 4}).json()
    assert told["answer"] == asked["answer"]
    assert told["usage"]["prompt_tokens"] == asked["usage"]["prompt_tokens"]


def test_several_turns_are_all_read(web: TestClient, png64: Callable[..., str]) -> None:
    def turn(role: str, content: Any) -> dict[str, Any]:
        return {"role": role, "content": content}

    url = {"type": "image_url", "image_url": {"url": png64()}}
    last = turn("user", "And now?")
    turns = [turn("system", "Be brief."), turn("user", [url, {"type": "text", "text": "What?"}])]
    whole = web.post("/v1/understand", json={"messages": [*turns, turn("assistant", "A cat."), last]}).json()
    short = web.post("/v1/understand", json={"messages": [last]}).json()
    assert whole["usage"]["prompt_tokens"] > short["usage"]["prompt_tokens"]


def test_a_seed_makes_a_drawn_answer_again(web: TestClient) -> None:
    body = {"prompt": "What?", "temperature": 1.5, "top_p": 0.9, "max_tokens": 8, "stop": "zzzz"}
    first = web.post("/v1/understand", json=body | {"metadata": {"a": "b"}}).json()
    again = web.post("/v1/understand", json=body | {"seed": first["seed"]}).json()
    assert again["answer"] == first["answer"]
    assert first["metadata"] == {"a": "b"}


def test_an_answer_is_no_longer_than_asked(web: TestClient) -> None:
    answers = [
        web.post("/v1/understand", json={"prompt": "a"} | more).json() for more in ({}, {"max_tokens": 1})
    ]
    assert answers[0]["usage"]["completion_tokens"] <= 16
    assert answers[1]["usage"]["completion_tokens"] <= 1
