import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio
from PIL import Image

from model import errors as model_errors
from model.drawing import Drawing
from service.devices import UnusableDevice
from service.engine import errors as engine_errors
from service.engine.errors import EngineUnavailable
from service.engine.job import Failed, Job
from service.engine.peer import Peer, decode, encode

NOISE = Image.effect_noise((64, 48), 60)
ERRORS = [
    kind
    for tree in (model_errors, engine_errors)
    for kind in vars(tree).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_a_picture_comes_out_as_it_went_in(mode: str) -> None:
    image = NOISE.convert(mode)
    image.info["a"] = 1
    job = Job(id="a", work=Drawing(prompt="a", images=(image,)))
    (other,) = decode(encode(("submit", job)))[1].work.images
    assert (other.mode, other.size, other.info) == (mode, image.size, {"a": 1})
    assert other.convert("RGB").tobytes() == image.convert("RGB").tobytes()
    assert type(other) is Image.Image


def test_pixels_travel_beside_the_pickle() -> None:
    head, *pixels = encode([NOISE.convert("RGB"), "words", NOISE])
    assert [len(frame) for frame in pixels] == [64 * 48 * 3, 64 * 48]
    assert len(head) < 1000


@pytest.mark.parametrize("kind", [*ERRORS, UnusableDevice])
def test_an_error_crosses_with_all_it_says(kind: type[Exception]) -> None:
    more: dict[str, Any] = {}
    if issubclass(kind, EngineUnavailable):
        more = {"retry_after_seconds": 7}
    if issubclass(kind, model_errors.BadRequest):
        more = {"param": "size"}
    error = decode(encode(Failed(error=kind("words", **more)))).error
    assert type(error) is kind
    assert (str(error), vars(error)) == ("words", more)


def test_messages_come_in_order_also_those_sent_before_the_other_was_there(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/line"
    big = Image.frombytes("L", (1024, 1024), os.urandom(1024 * 1024))
    messages = [1, big, ("words", None), *range(50)]

    async def talk() -> list[Any]:
        with zmq.asyncio.Context() as context, Peer(context) as one, Peer(context) as other:
            one.bind(address)
            met = one.send(encode(messages[0]))
            for message in messages[1:]:
                one.send(encode(message))
            await asyncio.sleep(0)
            assert not met.done()
            other.connect(address)
            received = [await other.receive() for _ in messages]
            assert met.done()
            other.send(encode("thanks"))
            assert await one.receive() == "thanks"
            return received

    first, picture, *rest = asyncio.run(talk())
    assert [first, *rest] == [messages[0], *messages[2:]]
    assert picture.tobytes() == big.tobytes()
