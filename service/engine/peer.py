"""One end of the line between the engine's process and the one that serves: any plain data, in order.

Messages are pickled. Nobody else can be at the other end: the socket lies in a folder that only its owner may
open (0700), takes a single connection, and is gone from there as soon as that is made. Pixels travel beside
the pickle, as they lie in memory. Knows no jobs and no events.
"""

import asyncio
import pickle
from collections.abc import Sequence
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import zmq
import zmq.asyncio
from PIL import Image

Frame = bytes | memoryview


class Peer:
    """A socket that speaks to exactly one other; to be used on the event loop's thread."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._socket = context.socket(zmq.PAIR)
        # How many messages may be under way is the engine's affair, which bounds its jobs.
        self._socket.set_hwm(0)
        self._socket.linger = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def bind(self, address: str) -> None:
        """Wait for the other at an address."""
        self._socket.bind(address)

    def connect(self, address: str) -> None:
        """Go to the other."""
        self._socket.connect(address)

    def send(self, frames: Sequence[Frame]) -> asyncio.Future[Any]:
        """Send an encoded message after all before it; what is returned is done once the other is there."""
        return asyncio.ensure_future(self._socket.send_multipart(frames, copy=False))

    async def receive(self) -> Any:
        """Wait for a message and decode it."""
        return decode([frame.buffer for frame in await self._socket.recv_multipart(copy=False)])


class Pickler(pickle.Pickler):
    """Leaves the pixels of pictures out of the pickle."""

    def reducer_override(self, value: Any) -> Any:
        """Say how to make a value again; NotImplemented leaves it to the value."""
        if not isinstance(value, Image.Image) or value.mode == "P":
            return NotImplemented
        return _picture, (value.mode, value.size, value.info, pickle.PickleBuffer(value.tobytes()))


def encode(message: Any) -> list[Frame]:
    """Turn a message into frames: the pickle, then the pixels of each picture."""
    head, buffers = BytesIO(), list[pickle.PickleBuffer]()
    Pickler(head, protocol=5, buffer_callback=buffers.append).dump(message)
    return [head.getvalue(), *(buffer.raw() for buffer in buffers)]


def decode(frames: Sequence[Frame]) -> Any:
    """Return the message that frames were made of; only for frames of ours, as pickles can do anything."""
    return pickle.loads(frames[0], buffers=frames[1:])


def _picture(mode: str, size: tuple[int, int], info: dict[Any, Any], pixels: Frame) -> Image.Image:
    image = Image.frombytes(mode, size, pixels)
    image.info = info
    return image
