import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import get_args

import pytest
from starlette.testclient import TestClient

from model.prompt import Task
from service.addresses import Address
from service.fetch import Fetcher
from service.schemas.body import Body, validate
from service.schemas.drawing import EditRequest, GenerateRequest
from service.schemas.question import UnderstandRequest
from service.settings import Settings
from service.tasks import SCHEMAS, fetched, to_job
from service.tenant import LOCAL, Tenant
from tests.service.local_client import service_of


def test_every_task_has_a_schema() -> None:
    assert set(SCHEMAS) == set(get_args(Task))


def test_a_body_of_no_task_is_a_fault_of_ours() -> None:
    class Anybody:
        def check_model(self, asked: str | None) -> None: ...

    with pytest.raises(TypeError, match="no task takes a Body"):
        asyncio.run(to_job(Anybody(), Body(), "req-1", LOCAL))  # type: ignore[arg-type]


def test_a_job_brings_its_tenants_name_and_weight(web: TestClient) -> None:
    asked = GenerateRequest(prompt="a")
    job = asyncio.run(to_job(service_of(web), asked, "req-1", Tenant(name="ann", weight=2.5)))
    assert (job.id, job.tenant, job.weight) == ("req-1", "ann", 2.5)


@pytest.fixture
def gallery(png: Callable[..., bytes]) -> Iterator[tuple[str, list[str]]]:
    """An http server of pictures under a name: its address, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://images.example:{server.server_port}", asked
        server.shutdown()
        thread.join()


def fetch(web: TestClient, url: str, asked: Body) -> Body:
    """Return a request that holds its images, by a fetcher that knows the gallery."""

    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [ip_address("127.0.0.1")]

    async def run() -> Body:
        port = int(url.rpartition(":")[2])
        settings = Settings(fetch_images=True, fetch_http=True, fetch_ports=[port])
        fetcher = Fetcher(settings, is_allowed=lambda address: True, resolve=resolve)
        try:
            return await fetched(replace(service_of(web), fetcher=fetcher), asked)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def test_images_at_addresses_become_a_part_of_the_request(
    web: TestClient, gallery: tuple[str, list[str]], png: Callable[..., bytes], png64: Callable[..., str]
) -> None:
    url, seen = gallery
    edit = EditRequest(prompt=f"{url}/not", images=[f"{url}/a", png64()], mask=f"{url}/b")
    assert fetch(web, url, edit) == edit.model_copy(update={"images": [png(), png64()], "mask": png()})
    talk = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"{url}/c"}}]}
    question = validate(UnderstandRequest, {"messages": [talk, {"role": "user", "content": "a"}]})
    held = fetch(web, url, question)
    assert isinstance(held, UnderstandRequest)
    assert held.messages
    assert held.messages[0].images == [png()]
    assert held.messages[1] == question.messages[1]  # type: ignore[index]
    assert sorted(seen) == ["/a", "/b", "/c"]


def test_what_names_no_address_stays_as_it_is(web: TestClient, png64: Callable[..., str]) -> None:
    for asked in (GenerateRequest(prompt="https://a"), EditRequest(prompt="a", image=[png64()])):
        assert asyncio.run(fetched(service_of(web), asked)) == asked


def test_of_more_images_than_are_taken_none_is_fetched(
    web: TestClient, gallery: tuple[str, list[str]]
) -> None:
    url, seen = gallery
    asked = EditRequest(prompt="a", images=[f"{url}/{index}" for index in range(50)])
    assert fetch(web, url, asked) == asked
    assert seen == []
