"""What the tests ask of a service on Ray, over HTTP."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import httpx
from PIL import Image

NUM_AT_ONCE = 12


def decoded(answer: httpx.Response) -> list[bytes]:
    """Return the pixels of an answer's pictures."""
    assert answer.status_code == 200, answer.text
    files = [base64.b64decode(each["b64_json"]) for each in answer.json()["images"]]
    return [Image.open(BytesIO(file)).convert("RGB").tobytes() for file in files]


def encode(image: Image.Image) -> str:
    """Return a picture's file in base64."""
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(shade: int) -> str:
    """Return the file of a picture in a shade of its own."""
    return encode(Image.new("RGB", (64, 64), (shade, 255 - shade, shade // 2)))


def at_once(ask: Callable[[Any], Any], cases: list[Any]) -> list[Any]:
    """Ask for all cases, several at once."""
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        return list(pool.map(ask, cases))


def counted(web: httpx.Client, name: str, **labels: str) -> float:
    """Return what /metrics says of a name, summed over all labels but these."""
    lines = [
        line for line in web.get("/metrics").text.splitlines() if line.partition("{")[0].split()[0] == name
    ]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(each in line for each in wanted))


def wait_for(seen: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := seen()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)
    return value


@contextmanager
def background(url: str, asked: dict[str, object], num_clients: int) -> Iterator[None]:
    """Keep asking for as long as this lasts; whoever still waits then leaves."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300) as web:
            while True:
                await web.post("/v1/generate", json=asked)

    async def ask_all(stopped: threading.Event) -> None:
        tasks = [asyncio.create_task(ask()) for _ in range(num_clients)]
        await asyncio.to_thread(stopped.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stopped = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(ask_all(stopped)))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
