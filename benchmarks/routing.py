"""Two engines on Ray Serve beside one process, and routing by affinity beside routing at random.

Run by `hbridge bench ray`; writes benchmarks/results/ray.json. Clients keep a fixed number of requests under
way. What is compared for speed runs in turns on servers that are all up, each engine with one thread; on a
machine with few cores engines, servers and clients share these, so two engines are not twice as fast. What
was in a cache is what the servers say of each request.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter, sleep
from typing import Any

import httpx

from benchmarks.clock import in_turns, ratios, spread
from benchmarks.figure import Figure
from benchmarks.load import Mix, make_request
from benchmarks.local_server import LocalServer
from benchmarks.ray_server import RayServer

TASKS = ("generate", "generate", "edit", "understand")
AT_ONCE = 8
FEW_AT_ONCE = 2
"""As many as there are engines: what leaves them time."""
ENGINES = 2
JOIN_SECONDS = 120.0
ONE_THREAD = {"HBRIDGE_NUM_THREADS": "1", "HBRIDGE_PROVENANCE": "off"}

ROUTINGS: Mapping[str, dict[str, Any]] = {
    "affinity": {"routing": "affinity"},
    "hasty": {"routing": "affinity", "patience_seconds": 0.25},
    "random": {"routing": "random"},
}
"""What is compared: affinity with the patience that it has by default and with less, and its plain twin."""
Shot = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much is asked.

    Attributes:
        requests: Of each turn, when speed is compared.
        images: That are edited, when routings are compared.
        edits: Of each image.
    """

    turns: int = 2
    requests: int = 24
    images: int = 20
    edits: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What was found in caches.

    Attributes:
        tokens: Share of all prompt tokens that did not have to be read.
        images: Share of requests whose image did not have to be read.
    """

    tokens: float
    images: float
    seconds: float

    def report(self) -> dict[str, float]:
        """Return it as plain data."""
        return {
            "tokens": round(self.tokens, 4),
            "images": round(self.images, 4),
            "seconds": round(self.seconds, 2),
        }


def measure_ray(counts: Counts, *, seed: int = 0) -> Iterator[Figure]:
    """Measure everything, one figure after another."""
    with ExitStack() as stack:
        cluster = stack.enter_context(started())
        one = stack.enter_context(LocalServer(**ONE_THREAD))
        every = stack.enter_context(LocalServer(**ONE_THREAD | {"HBRIDGE_NUM_THREADS": str(ENGINES)}))
        urls = {"two_engines": cluster.url, "one_process": one.url, "one_process_all_threads": every.url}
        yield compare_speed(urls, counts, seed=seed)
    hits: dict[str, dict[str, Hits]] = {}
    for name, options in ROUTINGS.items():
        with started(**options) as cluster:
            hits[name] = {
                "busy": edit_images(cluster.url, counts, at_once=AT_ONCE, seed=seed),
                "light": edit_images(cluster.url, counts, at_once=FEW_AT_ONCE, seed=seed + 1),
            }
    yield compare_hits(hits, counts)


def started(**options: Any) -> RayServer:
    """Return a server of Ray Serve that has all its engines once it is entered."""
    return AllEngines({"engines": ENGINES, "cpus": 0.5, **options}, (), **ONE_THREAD)


class AllEngines(RayServer):
    """A server of Ray Serve, from when all its engines are up."""

    def __enter__(self) -> "AllEngines":
        super().__enter__()
        deadline = perf_counter() + JOIN_SECONDS
        while self.num_engines_up < ENGINES and perf_counter() < deadline:
            sleep(0.1)
        return self


def compare_speed(urls: dict[str, str], counts: Counts, *, seed: int) -> Figure:
    """Send the same mixed requests to each server, in turns."""
    rng = Random(seed)
    turns: dict[str, Iterator[list[Shot]]] = {}
    drawn = [mixed(rng, counts.requests) for _ in range(counts.turns + 1)]
    for name in urls:
        turns[name] = iter(drawn)
    ways: dict[str, Callable[[], object]] = {
        name: partial(lambda name, url: ask_all(url, next(turns[name])), name, url)
        for name, url in urls.items()
    }
    taken = in_turns(ways, repeats=counts.turns)
    gains = ratios(taken["one_process"], taken["two_engines"])
    return Figure(
        name="two_engines",
        title=f"{ENGINES} engines on Ray over one process, throughput at {AT_ONCE} requests under way",
        value=statistics.median(gains),
        wanted="at least",
        bar=1.0,
        details={
            "spread": spread(gains),
            "over_one_process_with_all_threads": spread(
                ratios(taken["one_process_all_threads"], taken["two_engines"])
            ),
            "requests_per_second": {
                name: spread([counts.requests / each for each in values]) for name, values in taken.items()
            },
        },
    )


def compare_hits(hits: Mapping[str, Mapping[str, Hits]], counts: Counts) -> Figure:
    """Compare what caches spared by affinity and at random on busy engines; tell all else beside."""
    near, far = hits["affinity"]["busy"].images, hits["random"]["busy"].images
    return Figure(
        name="affinity",
        title=f"images not read again by affinity over random routing, {AT_ONCE} requests under way",
        value=near / far if far else math.inf,
        wanted="at least",
        bar=1.1,
        details={
            "images": counts.images,
            "edits_of_each": counts.edits,
            "at_most": round(1 - 1 / counts.edits, 4),
            "under_way": {"busy": AT_ONCE, "light": FEW_AT_ONCE},
            "options": ROUTINGS,
            "hits": {
                name: {load: each.report() for load, each in of_one.items()} for name, of_one in hits.items()
            },
        },
    )


def mixed(rng: Random, count: int) -> list[Shot]:
    """Draw requests of all tasks."""
    tasks = [rng.choice(TASKS) for _ in range(count)]
    return [(task, make_request(rng, task, Mix().sizes)) for task in tasks]


def edit_images(url: str, counts: Counts, *, at_once: int, seed: int) -> Hits:
    """Edit each of some images again and again, in any order, and see how often one was known.

    An image is known when more of the prompt is cached than its first edit found.
    """
    rng = Random(seed)
    images = [make_request(rng, "edit", ())["image"] for _ in range(counts.images)]
    shots: list[Shot] = [
        ("edit", {**make_request(rng, "edit", ()), "image": image, "num_inference_steps": 4})
        for image in images
        for _ in range(counts.edits)
    ]
    rng.shuffle(shots)
    begun = perf_counter()
    usages = ask_all(url, shots, at_once=at_once)
    cached = [usage["cached_prompt_tokens"] for usage in usages]
    read = [usage["prefilled_tokens"] for usage in usages]
    image_tokens = [usage["prompt_image_tokens"] for usage in usages]
    known = [kept >= tokens for kept, tokens in zip(cached, image_tokens, strict=True)]
    return Hits(
        tokens=sum(cached) / (sum(cached) + sum(read)),
        images=sum(known) / len(known),
        seconds=perf_counter() - begun,
    )


def ask_all(url: str, shots: Sequence[Shot], *, at_once: int = AT_ONCE) -> list[dict[str, int]]:
    """Send requests, some at once, and return what each used.

    Raises:
        HTTPStatusError: One was not answered.
    """
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(at_once) as pool:

        def ask(shot: Shot) -> dict[str, int]:
            task, body = shot
            usage: dict[str, int] = client.post(f"/v1/{task}", json=body).raise_for_status().json()["usage"]
            return usage

        return list(pool.map(ask, shots))
