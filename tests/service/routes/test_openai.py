"""The judge is the official client, against a live server."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import openai
import pytest
from openai import OpenAI
from PIL import Image

from model.drawing import Drawing
from model.family import Size
from model.images import open_image
from model.pipeline import draw
from service.engine.client import Client
from service.engine.job import LoadedModel
from service.settings import Settings

FEW: dict[str, Any] = {"prompt": "a", "extra_body": {"seed": 5, "num_inference_steps": 4}}


@pytest.fixture(scope="module")
def url(
    loaded: LoadedModel, make_client: Callable[..., Client], run_server: Callable[..., Any]
) -> Iterator[str]:
    settings = Settings(port=0, max_body_bytes=200_000, max_prompt_chars=60, max_tokens=16)
    with run_server(settings, make_client(loaded)) as running:
        yield running.url


def sdk(url: str, **given: Any) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", **{"max_retries": 0, "timeout": 30} | given)


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with sdk(url) as client:
        yield client


def noise(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    red = Image.effect_noise(size, 60 + seed)
    return Image.merge("RGB", (red, red.transpose(Image.Transpose.ROTATE_180), red))


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
        ({"response_format": "url"}, "response_format"),
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
        body = {"num_inference_steps": 500}
        with client.images.generate(prompt="a", stream=True, partial_images=3, extra_body=body) as stream:
            assert next(iter(stream)).type == "image_generation.partial_image"
            gated.gate.clear()
            num_calls = gated.num_calls
        wait_until(lambda: engine.is_idle)
        gated.gate.set()
        wait_until(lambda: engine.num_running == 0)
    assert gated.num_calls <= num_calls + 1 < 500


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
