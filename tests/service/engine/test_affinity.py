from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.drawing import Drawing
from model.family import Size
from model.prompt import Turn
from model.question import Question
from service.engine.affinity import (
    Loads,
    Report,
    affinity_key,
    amount_of,
    choose_at_random,
    choose_by_affinity,
    home_of,
)
from service.engine.job import Job
from tests.service.engine.toy import CAPABILITIES

RED, BLUE = (Image.new("RGB", (32, 32), color) for color in ("red", "blue"))
UP = Report(is_up=True, weights_hash="a", num_taken=0, queued_seconds=0.0)
PATIENCE = 1.0

keys = st.binary(min_size=16, max_size=16)
replicas = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=6)
queues = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 100), min_size=1, max_size=6)


def edit(*images: Image.Image, prompt: str = "brighter", tenant: str = "") -> Job:
    return Job(id="a", work=Drawing(prompt=prompt, images=images), tenant=tenant)


def ask(*parts: str | Image.Image) -> Job:
    return Job(id="a", work=Question(turns=(Turn("user", parts),)))


def test_what_is_done_with_an_image_meets_at_one_place() -> None:
    key = affinity_key(edit(RED))
    assert key == affinity_key(edit(RED, prompt="darker"))
    assert key == affinity_key(edit(RED.copy(), BLUE))
    assert key == affinity_key(ask(RED, "what is it?"))
    assert key != affinity_key(edit(BLUE, RED))


def test_tenants_share_no_contexts_and_so_no_keys() -> None:
    assert affinity_key(edit(RED, tenant="a")) != affinity_key(edit(RED, tenant="b"))


def test_without_images_the_words_count() -> None:
    one, same, other = (affinity_key(Job(id="a", work=Drawing(prompt=each))) for each in ("a", "a", "b"))
    assert one == same != other
    assert affinity_key(ask("a")) != affinity_key(ask("b"))


def test_images_of_other_sizes_are_others_even_with_equal_bytes() -> None:
    wide, tall = Image.new("RGB", (64, 16)), Image.new("RGB", (16, 64))
    assert affinity_key(edit(wide)) != affinity_key(edit(tall))


@given(keys, replicas)
def test_everybody_finds_the_same_home(key: bytes, names: set[str]) -> None:
    assert home_of(key, sorted(names)) == home_of(key, sorted(names, reverse=True)) in names


@given(keys, replicas, st.text(min_size=9, max_size=9))
def test_a_replica_that_comes_or_goes_moves_no_keys_but_its_own(
    key: bytes, names: set[str], new: str
) -> None:
    assert home_of(key, names | {new}) in {home_of(key, names), new}


def test_homes_are_shared_out_evenly() -> None:
    rng = Random(0)
    homes = [home_of(rng.randbytes(16), ("a", "b", "c", "d")) for _ in range(4000)]
    for name in "abcd":
        assert homes.count(name) == pytest.approx(1000, rel=0.15)


@given(keys, queues, st.integers())
def test_a_job_leaves_home_only_for_a_queue_that_is_shorter_by_more_than_patience(
    key: bytes, loads: dict[str, float], seed: int
) -> None:
    home = home_of(key, loads)
    chosen = choose_by_affinity(key, loads, patience_seconds=PATIENCE, rng=Random(seed))
    assert chosen == home or loads[chosen] + PATIENCE < loads[home]
    if loads[home] <= min(loads.values()) + PATIENCE:
        assert chosen == home


@given(st.lists(st.floats(0.01, 5), max_size=40), st.integers())
def test_one_key_of_two_replicas_lets_no_queue_grow_beyond_patience(jobs: list[float], seed: int) -> None:
    loads, rng = {"a": 0.0, "b": 0.0}, Random(seed)
    home = home_of(b"hot", loads)
    (other,) = loads.keys() - {home}
    for seconds in jobs:
        loads[choose_by_affinity(b"hot", loads, patience_seconds=PATIENCE, rng=rng)] += seconds
        assert -max(jobs) <= loads[home] - loads[other] <= PATIENCE + max(jobs)


def test_affinity_reads_an_image_once_and_random_routing_once_at_each_replica() -> None:
    rng = Random(0)
    names = dict.fromkeys("abcd", 0.0)
    asked = [rng.randrange(50).to_bytes(2) for _ in range(1000)]
    near = {(choose_by_affinity(key, names, patience_seconds=0, rng=rng), key) for key in asked}
    far = {(choose_at_random(names, rng=rng), key) for key in asked}
    assert len(near) == 50
    assert len(far) > 3 * 50


def test_what_was_sent_counts_until_it_ends_or_the_replica_speaks_of_it() -> None:
    loads = Loads()
    loads.report("a", UP)
    loads.send("a", "1", 2.0)
    loads.send("a", "2", 1.0)
    loads.report("a", UP)
    assert loads.of(["a", "b"], "a") == {"a": 3.0, "b": 0.0}
    loads.end("a", "2")
    assert loads.of(["a", "b"], "a") == {"a": 2.0, "b": 0.0}
    loads.report("a", replace(UP, num_taken=1, queued_seconds=1.5))
    loads.end("a", "1")
    assert loads.of(["a", "b"], "a") == {"a": 1.5, "b": 0.0}
    loads.retain(["b"])
    assert loads.of(["a", "b"], "a") == {"a": 0.0, "b": 0.0}


def test_who_is_down_or_has_other_weights_gets_no_job_while_there_is_another() -> None:
    loads = Loads()
    loads.report("a", UP)
    loads.report("b", replace(UP, is_up=False))
    loads.report("c", replace(UP, weights_hash="b"))
    assert loads.of("abc", "a").keys() == {"a"}
    assert loads.of("abcd", "a").keys() == {"a", "d"}
    assert loads.of("bc", "a").keys() == {"b", "c"}


def test_more_pictures_steps_pixels_or_words_are_more_work() -> None:
    def amount(work: Drawing | Question) -> float:
        return amount_of(Job(id="a", work=work), CAPABILITIES)

    one = amount(Drawing(prompt="a"))
    assert amount(Drawing(prompt="a", n=3)) == 3 * one
    assert amount(Drawing(prompt="a", num_inference_steps=4)) == 2 * one
    assert amount(Drawing(prompt="a", size=Size(64, 64))) == 4 * one
    turns = (Turn("user", ("a",)),)
    assert amount(Question(turns=turns, max_tokens=8)) == 2 * amount(Question(turns=turns, max_tokens=4))
