"""The judge is the official client, against a live server."""

import base64
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

from model.drawing import Drawing
from model.family import Size
from model.images import open_image
from model.pipeline import answer as answer_to
from model.pipeline import draw
from model.prompt import Turn
from model.question import Question
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.settings import Settings

FEW: dict[str, Any] = {"prompt": "a", "extra_body": {"seed": 5, "num_inference_steps": 4}}


@pytest.fixture(scope="module")
def url(
    loaded: LoadedModel, make_client: Callable[..., Client], run_server: Callable[..., Any]
) -> Iterator[str]:
    # Without a signature, files of equal pictures are equal.
    limits = {"max_body_bytes": 200_000, "max_prompt_chars": 60, "max_tokens": 16}
    settings = Settings(port=0, provenance="off", **limits)
    with run_server(settings, make_client(loaded)) as running:
        yield running.url


def sdk(url: str, **given: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", **{"max_retries": 0, "timeout": 30} | given)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with sdk(url) as client:
        yield client


def noise(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def file_of(image: Image.Image, name: str = "a.png") -> tuple[str, bytes, str]:
    file = BytesIO()
    image.save(file, "PNG")
    return name, file.getvalue(), "image/png"


def pixels(b64_json: str | None) -> bytes:
    assert b64_json
    return open_image(base64.b64decode(b64_json)).tobytes()


def test_generate_answers_the_pipelines_pixels(client: OpenAI, loaded: LoadedModel) -> None:
    answer = client.images.generate(model="tiny", n=2, size="32x48", **FEW)
    drawing = Drawing(prompt="a", seed=5, num_inference_steps=4, n=2, size=Size(32, 48))
    drawn = draw(loaded.family, drawing)
    assert answer.data
    assert [pixels(each.b64_json) for each in answer.data] == [each.tobytes() for each in drawn.images]
    assert (answer.size, answer.output_format, answer.background) == ("32x48", "png", "opaque")
    assert answer.usage
    assert answer.usage.input_tokens == drawn.usage.prompt_tokens
    assert answer.usage.output_tokens == drawn.usage.image_tokens
    assert answer.usage.total_tokens == drawn.usage.prompt_tokens + drawn.usage.image_tokens
    assert answer.usage.input_tokens_details.image_tokens == 0


def test_what_leaves_it_open_is_taken(client: OpenAI) -> None:
    plain = client.images.generate(**FEW)
    spelled = client.images.generate(
        **FEW,
        size="auto",
        quality="auto",
        background="opaque",
        moderation="auto",
        response_format="b64_json",
        output_format="png",
        user="u-1",
    )
    assert plain.data
    assert spelled.data
    assert spelled.data[0].b64_json == plain.data[0].b64_json
    assert spelled.safety_identifier == "u-1"


def test_fields_of_ours_come_along(client: OpenAI) -> None:
    body = {"negative_prompt": "b", "guidance_scale": 2.5, "seed": 3, "metadata": {"mine": "1"}}
    answer = client.images.generate(prompt="a", output_format="jpeg", output_compression=40, extra_body=body)
    told = answer.model_dump()
    assert (told["receipt"]["guidance"]["text"], told["receipt"]["seed"]) == (2.5, 3)
    assert told["metadata"] == {"mine": "1"}
    assert told["data"][0]["seed"] == 3
    assert answer.output_format == "jpeg"


def test_edit_with_several_images_and_a_mask(client: OpenAI, loaded: LoadedModel) -> None:
    images = [noise(), noise(20, (48, 32))]
    mask = Image.new("RGBA", (32, 32), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 16, 32))
    answer = client.images.edit(
        **FEW, image=[file_of(image) for image in images], mask=file_of(mask, "mask.png"), n=2, size="auto"
    )
    allowed = Image.new("1", (32, 32))
    allowed.paste(1, (0, 0, 16, 32))
    drawing = Drawing(prompt="a", seed=5, num_inference_steps=4, n=2, images=tuple(images), mask=allowed)
    drawn = draw(loaded.family, drawing)
    assert answer.data
    assert [pixels(each.b64_json) for each in answer.data] == [each.tobytes() for each in drawn.images]
    kept = (16, 0, 32, 32)
    for each in answer.data:
        picture = open_image(base64.b64decode(each.b64_json or ""))
        assert picture.crop(kept).tobytes() == images[0].crop(kept).tobytes()
    assert answer.usage
    assert answer.usage.input_tokens_details.image_tokens > 0
    details = answer.usage.input_tokens_details
    assert details.image_tokens + details.text_tokens == answer.usage.input_tokens


def test_one_image_is_edited_with_fields_of_ours(client: OpenAI) -> None:
    body = {"seed": 2, "guidance_interval": [0.2, 0.9], "metadata": {"a": "1"}, "image_guidance_scale": 1.5}
    with BytesIO(file_of(noise())[1]) as file:
        file.name = "a.png"
        answer = client.images.edit(image=file, prompt="a", extra_body=body).model_dump()
    assert answer["receipt"]["guidance"]["interval"] == [0.2, 0.9]
    assert answer["receipt"]["guidance"]["image"] == 1.5
    assert (answer["receipt"]["task"], answer["metadata"]) == ("edit", {"a": "1"})


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("task", ["generate", "edit"])
def test_a_stream_has_as_many_partial_images_as_were_asked_for(client: OpenAI, task: str, count: int) -> None:
    given: dict[str, Any] = FEW | {"output_format": "webp"}
    kind = "image_generation"
    if task == "edit":
        given, kind = given | {"image": file_of(noise())}, "image_edit"
    method = getattr(client.images, task)
    events = list(method(**given, stream=True, partial_images=count))
    assert [event.type for event in events] == [f"{kind}.partial_image"] * count + [f"{kind}.completed"]
    assert [event.partial_image_index for event in events[:-1]] == list(range(count))
    whole = method(**given)
    assert events[-1].b64_json == whole.data[0].b64_json
    assert events[-1].usage.model_dump() == whole.usage.model_dump()
    for event in events:
        assert (event.size, event.output_format, event.background) == (whole.size, "webp", "opaque")
        assert event.created_at >= whole.created - 60
        assert open_image(base64.b64decode(event.b64_json)).size == (32, 32)


def test_the_usage_of_streamed_pictures_adds_up(client: OpenAI) -> None:
    events = [event.model_dump() for event in client.images.generate(**FEW, n=3, stream=True)]
    whole = client.images.generate(**FEW, n=3).model_dump()
    assert [event["image_index"] for event in events] == [0, 1, 2]
    assert [event["b64_json"] for event in events] == [each["b64_json"] for each in whole["data"]]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert sum(event["usage"][name] for event in events) == whole["usage"][name]


SYSTEM = {"role": "system", "content": "Be brief."}
IMAGE_URL = "data:image/png;base64," + base64.b64encode(file_of(noise())[1]).decode()


def user(text: str, *urls: str) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def told(chunks: list[Any]) -> str:
    return "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)


def test_a_chat_answers_the_pipelines_words(client: OpenAI, loaded: LoadedModel) -> None:
    answer = client.chat.completions.create(model="tiny", messages=[user("What?", IMAGE_URL)], max_tokens=6)
    question = Question(turns=(Turn("user", (noise(), "What?")),), max_tokens=6)
    wanted = answer_to(loaded.family, question)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", wanted.text)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, wanted.finish_reason, None)
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    usage = answer.usage
    assert usage
    assert usage.prompt_tokens == wanted.usage.prompt_tokens
    assert usage.completion_tokens == wanted.usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.image_tokens == wanted.usage.prompt_image_tokens > 0
    assert "images" not in choice.message.model_dump()


def test_images_in_several_turns_are_all_read_and_answers_go_back_as_they_came(
    client: OpenAI, loaded: LoadedModel
) -> None:
    def ask(*messages: Any) -> Any:
        return client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=6)

    first = ask(SYSTEM, user("What?", IMAGE_URL))
    given = first.choices[0].message
    second = ask(SYSTEM, user("What?", IMAGE_URL), given, user("And these?", IMAGE_URL, IMAGE_URL))
    turns = (
        Turn("system", ("Be brief.",)),
        Turn("user", (noise(), "What?")),
        Turn("assistant", (given.content or "",)),
        Turn("user", (noise(), noise(), "And these?")),
    )
    wanted = answer_to(loaded.family, Question(turns=turns, max_tokens=6))
    assert second.choices[0].message.content == wanted.text
    assert second.usage.prompt_tokens == wanted.usage.prompt_tokens


@pytest.mark.parametrize("given", [{}, {"temperature": 1.5, "top_p": 0.9, "seed": 4, "stop": ["x", "yz"]}])
def test_streamed_words_are_the_answer(client: OpenAI, given: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [user("What?")], "max_tokens": 16} | given
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(each.choices[0].delta.role is None for each in chunks[1:])
    assert told(chunks) == whole.choices[0].message.content
    reasons = [each.choices[0].finish_reason for each in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert len({each.id for each in chunks}) == 1
    assert {each.object for each in chunks} == {"chat.completion.chunk"}
    assert all(each.usage is None for each in chunks)


def test_usage_comes_last_when_it_is_asked_for(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [user("What?")], "max_tokens": 4}
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    whole = client.chat.completions.create(**asked)
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert [each.usage for each in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_the_clients_own_way_to_stream_a_chat_sees_the_same(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [user("What?")], "max_tokens": 8}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    assert whole
    with client.chat.completions.stream(**asked, stop=whole[-1]) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.content == whole[: whole.index(whole[-1])].strip()
    assert final.finish_reason == "stop"


def pictures_in(message: Any) -> list[bytes]:
    return [pixels(each["image_url"]["url"].partition(",")[2]) for each in message["images"]]


PICTURE: dict[str, Any] = {
    "model": "tiny",
    "modalities": ["text", "image"],
    "extra_body": {"seed": 5, "num_inference_steps": 3, "size": "32x48"},
}


def test_a_chat_makes_a_picture_and_says_something(client: OpenAI, loaded: LoadedModel) -> None:
    answer = client.chat.completions.create(messages=[user("a red star")], max_tokens=4, **PICTURE)
    message = answer.choices[0].message.model_dump()
    drawing = Drawing(prompt="a red star", seed=5, num_inference_steps=3, size=Size(32, 48))
    (drawn,) = draw(loaded.family, drawing).images
    assert pictures_in(message) == [drawn.tobytes()]
    words = client.chat.completions.create(model="tiny", messages=[user("a red star")], max_tokens=4)
    assert message["content"] == words.choices[0].message.content
    assert answer.usage
    assert words.usage
    details = answer.usage.completion_tokens_details
    assert details
    assert details.text_tokens == words.usage.completion_tokens
    assert details.image_tokens
    assert answer.usage.completion_tokens == details.image_tokens + details.text_tokens
    assert answer.usage.prompt_tokens > words.usage.prompt_tokens


def test_images_in_the_last_message_are_edited(client: OpenAI, loaded: LoadedModel) -> None:
    given = PICTURE | {"modalities": ["image"], "extra_body": {"seed": 5, "num_inference_steps": 3}}
    answer = client.chat.completions.create(messages=[SYSTEM, user("make it red", IMAGE_URL)], **given)
    told = answer.model_dump()
    drawing = Drawing(prompt="make it red", seed=5, num_inference_steps=3, images=(noise(),))
    (drawn,) = draw(loaded.family, drawing).images
    assert pictures_in(told["choices"][0]["message"]) == [drawn.tobytes()]
    assert told["choices"][0]["message"]["content"] is None
    assert told["receipt"]["task"] == "edit"
    assert "last message" in told["warnings"][0]


def test_a_streamed_picture_is_the_same_and_may_be_talked_about(client: OpenAI) -> None:
    asked = PICTURE | {"messages": [user("a red star")], "max_tokens": 4}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    message = whole.choices[0].message
    deltas = [each.choices[0].delta.model_dump() for each in chunks]
    (picture,) = [each for each in deltas if each.get("images")]
    assert picture["images"] == message.model_dump()["images"]
    assert told(chunks) == message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    later = client.chat.completions.create(
        model="tiny", messages=[user("a red star"), message, user("What is it?")], max_tokens=4
    )
    assert later.usage
    assert later.usage.prompt_tokens_details
    assert later.usage.prompt_tokens_details.image_tokens


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [SYSTEM]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": ""}], "modalities": ["image"]}, "messages.0.content"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [user("a") | {"name": "x"}]}, "messages.0.name"),
        ({"messages": [user("a") | {"images": [user("a", IMAGE_URL)["content"][0]]}]}, "messages.0.images"),
        ({"messages": [user("a", "data:,")]}, "messages"),
        ({"messages": [user("a", "data:,")], "modalities": ["image"]}, "messages"),
        ({"messages": [user("a" * 61)]}, "messages.0.content"),
        ({"messages": [user("a" * 61)], "modalities": ["image"]}, "messages"),
        ({"messages": [user("a" * 30 + "\n" + "b" * 20)] * 12}, "messages"),
        ({"max_tokens": 17}, "max_tokens"),
        ({"max_completion_tokens": 17}, "max_completion_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"store": True}, "store"),
        ({"modalities": ["audio"]}, "modalities.0"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"size": "32x32"}}, "size"),
        ({"extra_body": {"size": "33x33"}, "modalities": ["image"]}, "size"),
        ({"max_tokens": 3, "modalities": ["image"]}, "max_tokens"),
        ({"extra_body": {"partial_images": 1}, "modalities": ["image"]}, "partial_images"),
    ],
)
def test_a_chat_that_cannot_be_held_is_a_bad_request_by_name(
    client: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**{"model": "tiny", "messages": [user("a")]} | given)
    assert refusal.value.param == param


def test_values_that_ask_for_nothing_are_taken(client: OpenAI) -> None:
    nothing: dict[str, Any] = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}}
    nothing |= {
        "logprobs": False,
        "store": False,
        "response_format": {"type": "text"},
        "service_tier": "auto",
    }
    asked: dict[str, Any] = {"model": "tiny", "messages": [user("a")], "max_tokens": 4}
    plain, spelled = (client.chat.completions.create(**asked, **more) for more in ({}, nothing))
    assert plain.choices == spelled.choices


def test_models_are_listed_and_shown(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError) as refusal:
        client.models.retrieve("gpt-image-9")
    assert refusal.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 9}, "n"),
        ({"size": "33x33"}, "size"),
        ({"quality": "high"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"moderation": "low"}, "moderation"),
        ({"output_format": "gif"}, "output_format"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"extra_body": {"response_format": "binary"}}, "response_format"),
        ({"partial_images": 1}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"prompt": "a" * 61}, "prompt"),
        ({"extra_body": {"sead": 1}}, "sead"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request_by_name(
    client: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.images.generate(**{"prompt": "a"} | given)
    assert refusal.value.param == param
    assert refusal.value.type == "invalid_request_error"
    assert refusal.value.request_id


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"image": []}, "image"),
        ({"image": ("a.png", b"no picture", "image/png")}, "image"),
        ({"mask": file_of(noise(0, (48, 48)))}, "mask"),
        ({"size": "48x48", "mask": file_of(noise())}, "size"),
        ({"input_fidelity": "high"}, "input_fidelity"),
    ],
)
def test_an_edit_that_cannot_be_done_is_a_bad_request_by_name(
    client: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.images.edit(**{"prompt": "a", "image": file_of(noise())} | given)
    assert refusal.value.param == param


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny") as refusal:
        client.images.generate(model="gpt-image-9", prompt="a")
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")


def test_a_body_that_is_too_long_is_said_to_be(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.images.edit(image=("a.png", b"a" * 200_001, "image/png"), prompt="a")
    assert (refusal.value.status_code, refusal.value.code) == (413, "body_too_large")


@pytest.fixture
def engine(gated_model: LoadedModel, make_client: Callable[..., Client]) -> Client:
    return make_client(gated_model, max_running=1, max_waiting=1)


@pytest.fixture
def gated_url(engine: Client, gated: Any, run_server: Callable[..., Any]) -> Iterator[str]:
    """A live server of this test's own, on whose device one may wait."""
    with run_server(Settings(port=0), engine) as running:
        gated.num_calls = 0
        yield running.url
        gated.gate.set()


def fill(url: str, engine: Client, gated: Any, wait_until: Callable[..., None]) -> None:
    """Let the device be busy until the gate opens, and the queue be full."""
    gated.gate.clear()
    for num_inside in (1, 2):
        threading.Thread(target=asking, args=(url,)).start()
        wait_until(lambda num=num_inside: engine.num_running + engine.num_waiting == num)


def asking(url: str) -> None:
    with sdk(url) as client:
        client.images.generate(prompt="a")


def test_a_full_queue_is_a_rate_limit(
    gated_url: str, engine: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    fill(gated_url, engine, gated, wait_until)
    with sdk(gated_url) as client, pytest.raises(openai.RateLimitError) as refusal:
        client.images.generate(prompt="a")
    assert (refusal.value.code, refusal.value.type) == ("queue_full", "rate_limit_error")
    assert int(refusal.value.response.headers["retry-after"]) >= 1


def test_a_client_that_tries_again_when_it_was_told_to_gets_its_picture(
    gated_url: str, engine: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    fill(gated_url, engine, gated, wait_until)
    threading.Timer(0.3, gated.gate.set).start()
    begun = time.monotonic()
    with sdk(gated_url, max_retries=2) as client:
        answer = client.images.with_raw_response.generate(prompt="a")
    assert answer.retries_taken >= 1
    assert time.monotonic() - begun >= 1
    assert answer.parse().data


def test_a_client_that_comes_before_the_model_is_ready_is_served_when_it_is(
    engine: Client, gated: Any, run_server: Callable[..., Any]
) -> None:
    gated.gate.clear()
    threading.Timer(1, gated.gate.set).start()
    running = run_server(Settings(port=0), engine)
    running.start()
    try:
        with sdk(running.url, max_retries=3) as client:
            answer = client.images.with_raw_response.generate(prompt="a")
    finally:
        running.stop()
    assert answer.retries_taken == 1
    assert answer.parse().data


def test_a_client_that_runs_out_of_time_takes_its_job_along(
    gated_url: str, engine: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    gated.gate.clear()
    with sdk(gated_url, timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.images.generate(prompt="a", extra_body={"num_inference_steps": 500})
    wait_until(lambda: engine.is_idle)
    gated.gate.set()
    wait_until(lambda: engine.num_running == 0)
    assert gated.num_calls == 1


def test_a_stream_that_is_closed_takes_its_job_along(
    gated_url: str, engine: Client, gated: Any, wait_until: Callable[..., None]
) -> None:
    with sdk(gated_url) as client:
        body = {"num_inference_steps": 100}
        with client.images.generate(prompt="a", stream=True, partial_images=3, extra_body=body) as stream:
            assert next(iter(stream)).type == "image_generation.partial_image"
            gated.gate.clear()
            num_calls = gated.num_calls
        wait_until(lambda: engine.is_idle)
        gated.gate.set()
        wait_until(lambda: engine.num_running == 0)
    assert gated.num_calls <= num_calls + 1 < 100


def test_a_deadline_that_is_missed_is_a_timeout_of_the_server(
    gated_url: str, engine: Client, gated: Any
) -> None:
    threading.Timer(0.5, gated.gate.set).start()
    gated.gate.clear()
    with sdk(gated_url) as client, pytest.raises(openai.InternalServerError) as late:
        client.images.generate(prompt="a", extra_body={"deadline_ms": 300})
    assert (late.value.status_code, late.value.code) == (504, "deadline_exceeded")


def test_a_fault_of_ours_is_a_server_error_streamed_or_not(gated_url: str, gated: Any) -> None:
    def fail(latents: Any) -> Any:
        raise RuntimeError("secret words")

    gated.decode = fail
    with sdk(gated_url) as client:
        with pytest.raises(openai.InternalServerError) as fault:
            client.images.generate(prompt="a")
        assert (fault.value.code, "secret" in str(fault.value)) == ("internal_error", False)
        with pytest.raises(openai.APIError, match="internal error") as late:
            list(client.images.generate(prompt="a", stream=True))
        assert late.value.code == "internal_error"


@pytest.mark.slow
def test_the_npm_client_does_the_same(url: str, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node, "this needs node: apt-get install nodejs npm"
    assert npm, "this needs npm: apt-get install npm"
    (tmp_path / "a.png").write_bytes(file_of(noise())[1])
    script = Path(__file__).with_name("openai_client.mjs")
    shutil.copy(script, tmp_path)
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "openai@6"], cwd=tmp_path, check=True)
    subprocess.run([node, script.name, url, "a.png"], cwd=tmp_path, check=True, timeout=100)


def keyed(key: str) -> dict[str, Any]:
    return {"extra_headers": {"Idempotency-Key": key}}


def test_the_same_key_makes_the_same_pictures_once(client: OpenAI) -> None:
    once = client.images.generate(model="tiny", prompt="a", size="auto", n=2, **keyed("pictures"))
    again = client.images.generate(model="tiny", prompt="a", size="auto", n=2, **keyed("pictures"))
    assert once == again
    assert once.data
    assert all(each.b64_json for each in once.data)
    with pytest.raises(openai.ConflictError) as conflict:
        client.images.generate(model="tiny", prompt="a", n=2, user="somebody", **keyed("pictures"))
    assert conflict.value.code == "idempotency_conflict"
    with pytest.raises(openai.ConflictError):
        client.post("/generate", body={"prompt": "a", "n": 2}, cast_to=object, options={
            "headers": {"Idempotency-Key": "pictures"}
        })  # fmt: skip


def test_the_same_key_edits_once(client: OpenAI) -> None:
    def edit() -> Any:
        return client.images.edit(model="tiny", image=file_of(noise()), prompt="a", **keyed("edits"))

    assert edit() == edit()


@pytest.mark.parametrize("modalities", [["text"], ["image"], ["text", "image"]])
def test_the_same_key_is_the_same_turn_of_a_conversation(client: OpenAI, modalities: list[Any]) -> None:
    def say(**given: Any) -> Any:
        key = keyed(f"talk {modalities}")
        messages: list[Any] = [{"role": "user", "content": "a"}]
        return client.chat.completions.create(
            model="tiny", messages=messages, extra_body={"modalities": modalities}, **(key | given)
        )

    once = say()
    assert once == say()
    assert (once.choices[0].message.content is not None) == ("text" in modalities)
    with pytest.raises(openai.ConflictError):
        say(metadata={"a": "b"})
    assert say(**keyed(f"another {modalities}")).id != once.id


def test_what_is_streamed_has_no_key(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}], stream=True, **keyed("stream")
        )
    assert refused.value.param == "stream"
    with pytest.raises(openai.BadRequestError):
        client.images.generate(model="tiny", prompt="a", stream=True, **keyed("stream"))
