"""A real server under a real load, and a real Prometheus: has every panel and rule something to say?"""

import asyncio
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.drill import wait_for
from benchmarks.load import TASKS, Mix, make_request
from benchmarks.local_server import LocalServer, free_port
from tests.docker.watched import ALERTS, PROMETHEUS, RECORDS, SELECTOR, read_panels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed"),
]
NUM_CLIENTS = 4
NUM_KILLS = 3
BURST = 60
SCRAPE = "1s"
VARIABLES = {"$job": "hbridge", "$instance": ".*", "$__rate_interval": "30s"}
STAYS_ZERO = {"server, {{instance}}"}
"""Legends of what does not happen here: the server itself lives on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A Prometheus that has seen a load, and when it was."""

    api: httpx.Client
    begun: float
    ended: float

    def ask(self, path: str, **params: Any) -> Any:
        """Ask its API."""
        answer = self.api.get(f"/api/v1/{path}", params=params)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def values(self, expr: str) -> list[float]:
        """Return all numbers that an expression had during the load, of all its series."""
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        told = self.ask("query_range", query=expr, start=self.begun, end=self.ended, step=1)["result"]
        numbers = [float(number) for series in told for _, number in series["values"]]
        return [number for number in numbers if math.isfinite(number)]


def write_config(folder: Path, target: str, key: Path) -> Path:
    """Write the shipped config for this server: seconds for minutes, and yesterday's cache begins at once."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["hbridge:8000"]}]
    scrape["static_configs"] = [{"targets": [target]}]
    scrape["authorization"]["credentials_file"] = str(key)
    (folder / "rules").mkdir()
    for file in (PROMETHEUS / "rules").glob("*.yml"):
        (folder / "rules" / file.name).write_text(file.read_text().replace(" offset 1h", ""))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Load a server for most of a minute under Prometheus' eyes."""
    folder = tmp_path_factory.mktemp("watched")
    key = folder / "key"
    key.write_text(f"hb-bootstrap-{secrets.token_hex(32)}")
    key.chmod(0o600)
    settings = {
        "HBRIDGE_BOOTSTRAP_KEY_FILE": str(key),
        "HBRIDGE_PEAK_FLOPS": "1e12",
        "HBRIDGE_MAX_WAITING": "8",
        "HBRIDGE_ALLOW_PRIVATE_WEBHOOKS": "true",
    }
    with LocalServer(**settings) as server:
        config = write_config(folder, server.url.removeprefix("http://"), key)
        url = f"http://127.0.0.1:{free_port()}"
        words = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        words += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"]
        with subprocess.Popen(words) as prometheus, httpx.Client(base_url=url, timeout=30) as api:
            try:
                wait_until_scraped(api)
                begun = time.time()
                asyncio.run(make_load(server, key.read_text()))
                yield Watched(api=api, begun=begun, ended=time.time())
            finally:
                prometheus.terminate()


def wait_until_scraped(api: httpx.Client) -> None:
    """Wait until Prometheus has seen the server, so that what comes now is an increase."""
    for _ in range(300):
        with suppress(httpx.TransportError):
            answer = api.get("/api/v1/query", params={"query": "up == 1"})
            if answer.is_success and answer.json()["data"]["result"]:
                return
        time.sleep(0.1)
    raise TimeoutError("Prometheus did not reach the server")


async def make_load(server: LocalServer, key: str) -> None:
    """Do all that the panels tell of, one thing after another, beside clients that go on and on."""
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=120, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        senders = [group.create_task(send(client, Random(seed))) for seed in range(NUM_CLIENTS)]
        await asyncio.sleep(5)
        await do_wrong(client)
        await look(client)
        await finish_job(client, server.url)
        await crowd(client)
        await leave(client)
        await come_too_late(client, server)
        for _ in range(NUM_KILLS):
            pid = server.engine_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert await wait_for(client, 503)
            assert (await client.post("/v1/generate", json={"prompt": "a red circle"})).status_code == 503
            assert await wait_for(client, 200)
        await asyncio.sleep(10)
        for sender in senders:
            sender.cancel()


async def send(client: httpx.AsyncClient, rng: Random) -> None:
    """Send one request after another, of any task, each twice."""
    while True:
        task = rng.choice(TASKS)
        body = make_request(rng, task, Mix().sizes) | {"priority": rng.choice(["interactive", "batch"])}
        for _ in range(2):
            answer = await client.post(f"/v1/{task}", json=body)
            await asyncio.sleep(0 if answer.is_success else 0.2)


async def do_wrong(client: httpx.AsyncClient) -> None:
    """Ask for what is refused."""
    for path, body, status in (
        ("generate", {"prompt": "a", "n": 0}, 400),
        ("edit", {"prompt": "a", "image": "https://images.example/a.png"}, 400),
        ("generate", {"prompt": "a", "deadline_ms": 1}, 429),
    ):
        assert (await client.post(f"/v1/{path}", json=body)).status_code == status


async def look(client: httpx.AsyncClient) -> None:
    """Draw with previews."""
    body = {"prompt": "a red circle", "stream": True, "partial_images": 2}
    answer = await client.post("/v1/generate", json=body)
    assert "event: partial_image" in answer.text


async def finish_job(client: httpx.AsyncClient, url: str) -> None:
    """Run a job whose webhook leads to the server itself, which answers 405."""
    webhook = {"url": f"{url}/livez", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    body = {"task": "generate", "request": {"prompt": "a red circle"}, "webhook": webhook}
    answer = await client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    while (await client.get(answer.headers["location"])).json()["state"] != "succeeded":
        await asyncio.sleep(0.2)


async def crowd(client: httpx.AsyncClient) -> None:
    """Send more at once than may run and wait."""
    body = {"prompt": "a red circle", "num_inference_steps": 12}
    answers = await asyncio.gather(*(client.post("/v1/generate", json=body) for _ in range(BURST)))
    assert {answer.status_code for answer in answers} == {200, 429}


async def leave(client: httpx.AsyncClient) -> None:
    """Hang up while the device works."""
    body = {"prompt": "a red circle", "num_inference_steps": 200}
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/v1/generate", json=body, timeout=1)


async def come_too_late(client: httpx.AsyncClient, server: LocalServer) -> None:
    """Let a deadline pass that could have been met, had the engine not stood still."""
    pid = server.engine_pid
    assert pid is not None
    body = {"prompt": "a red circle", "num_inference_steps": 50, "deadline_ms": 8000, "stream": True}
    async with client.stream("POST", "/v1/generate", json=body) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: progress"
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(8.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert "deadline_exceeded" in "".join([line async for line in lines])


def test_every_expression_of_every_panel_has_data(watched: Watched) -> None:
    empty = []
    for drawn in read_panels():
        values = watched.values(drawn.expr.removesuffix(" or vector(0)"))
        if not values or (drawn.legend not in STAYS_ZERO and not any(values)):
            empty.append(f"{drawn.panel}, {drawn.legend}: {drawn.expr}: {'zero' if values else 'nothing'}")
    assert not empty, "\n".join(empty)


def test_every_rule_is_evaluated_without_an_error(watched: Watched) -> None:
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == ALERTS.keys() | RECORDS.keys()
    assert [rule["name"] for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_recorded_has_data(name: str, watched: Watched) -> None:
    assert any(watched.values(name))


@pytest.mark.parametrize("name", ALERTS)
def test_all_that_an_alert_looks_at_has_data(name: str, watched: Watched) -> None:
    parts: Sequence[str] = SELECTOR.findall(ALERTS[name]["expr"])
    assert parts
    assert [part for part in parts if not watched.values(part)] == []


def test_an_engine_that_was_killed_again_and_again_sets_off_its_alert(watched: Watched) -> None:
    alerts = watched.ask("alerts")["alerts"]
    firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
    # Where this takes long, requests were lost for long enough for the other as well.
    assert {"HBridgeEngineRestarts"} <= firing <= {"HBridgeEngineRestarts", "HBridgeErrorBudgetFast"}
    (told,) = (alert for alert in alerts if alert["labels"]["alertname"] == "HBridgeEngineRestarts")
    assert re.search(r"started again \d", told["annotations"]["description"])
