from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.family import Context, Family, Row, Size
from model.prompt import Prompt, Turn
from service.engine.job import LoadedModel
from service.engine.prefix_cache import Ask, Prefilled, PrefixCache

PLENTY = 10**9
PICTURE, OTHER, NOISE = (
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8))
    for seed in range(3)
)
CLOSE = {"rtol": 0.0, "atol": 1e-5}
EDIT = Prompt.draw("bluer", (PICTURE,))
NO_TEXT = Prompt.draw("", (PICTURE,))
NEGATIVE = Prompt.draw("")
QUESTION = Prompt.ask("how blue?", (PICTURE,))


def asked_as_an_edit(text: str, image: Image.Image = PICTURE) -> Prompt:
    """A question whose prompt begins as that of an edit does."""
    words = "You are a helpful assistant that generates high-quality images based on user instructions."
    return Prompt(task="understand", turns=(Turn("system", (words,)), Turn("user", (image, text))))


class Counting:
    """A family whose packed prefills and prefilled tokens are counted."""

    def __init__(self, family: Any) -> None:
        self._family = family
        self.num_calls = 0
        self.is_broken = False
        self._start = family.expert.num_prefilled_tokens

    @property
    def num_tokens(self) -> int:
        return int(self._family.expert.num_prefilled_tokens - self._start)

    def prefill(self, prompts: Any, **given: Any) -> Any:
        if self.is_broken:
            raise RuntimeError("broken")
        self.num_calls += 1
        return self._family.prefill(prompts, **given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)


@pytest.fixture
def family(loaded: LoadedModel) -> Counting:
    return Counting(loaded.family)


def read(cache: PrefixCache, family: Family, *prompts: Prompt, job_id: str = "a") -> list[Prefilled]:
    return cache.prefill([Ask(job_id=job_id, prompt=family.prepare(prompt)) for prompt in prompts])


def length(family: Family, prompt: Prompt, block: int | None = None) -> int:
    blocks = family.prepare(prompt).blocks
    return sum(each.num_tokens for each in (blocks if block is None else blocks[block : block + 1]))


def same(one: Any, other: Any) -> None:
    for layer in other.layers:
        for first, second in zip(one.at(layer), other.at(layer), strict=True):
            torch.testing.assert_close(first, second, **CLOSE)
    assert one.next_id == other.next_id
    if other.logits_V is not None:
        torch.testing.assert_close(one.logits_V, other.logits_V, **CLOSE)


def test_contexts_are_those_that_the_family_reads(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    rounds = [
        (EDIT, NO_TEXT, NEGATIVE),
        (QUESTION, EDIT, Prompt.draw("blue")),
        (asked_as_an_edit("how blue?"), Prompt.draw("bluer", (PICTURE, OTHER)), QUESTION),
    ]
    for prompts in rounds:
        got = read(cache, family, *prompts)
        for one, prompt in zip(got, prompts, strict=True):
            same(one.context, family.prefill([prompt])[0])


def test_a_picture_drawn_from_the_cache_is_the_picture(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    read(cache, family, NO_TEXT)
    (edit,) = read(cache, family, EDIT)
    assert 0 < edit.prefilled_tokens < length(family, EDIT)
    latent_CYX = family.noise(Size(32, 32), 0)
    contexts = [edit.context, family.prefill([EDIT])[0]]
    rows = [Row(latent_CYX=latent_CYX, time=0.3, context=context) for context in contexts]
    torch.testing.assert_close(*family.velocity(rows), **CLOSE)


def test_the_second_time_nothing_is_read(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    prompts = (EDIT, NO_TEXT, NEGATIVE, QUESTION)
    first = read(cache, family, *prompts)
    assert sum(each.prefilled_tokens for each in first) == family.num_tokens
    num_calls, num_tokens = family.num_calls, family.num_tokens
    for each, before, prompt in zip(read(cache, family, *prompts, job_id="b"), first, prompts, strict=True):
        assert each.context is before.context
        assert (each.prefilled_tokens, each.cached_tokens) == (0, length(family, prompt))
    assert (family.num_calls, family.num_tokens) == (num_calls, num_tokens)
    assert (cache.num_queries, cache.num_hits) == (8, 4)


def test_the_negative_prompt_of_everybody_is_read_once(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    asks = [Ask(job_id=str(job), prompt=family.prepare(NEGATIVE)) for job in range(5)]
    first, *others = cache.prefill(asks)
    assert first.prefilled_tokens == family.num_tokens == length(family, NEGATIVE)
    assert all(each.prefilled_tokens == 0 and each.context is first.context for each in others)
    assert cache.num_bytes == first.context.num_bytes
    assert cache.num_reused_tokens == 4 * length(family, NEGATIVE)


def test_tenants_read_apart_in_one_call_and_each_once(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    asks = [
        Ask(job_id=f"{tenant}-{job}", prompt=family.prepare(prompt), tenant=tenant)
        for tenant in ("ann", "bob")
        for job, prompt in enumerate((EDIT, EDIT, NO_TEXT))
    ]
    got = cache.prefill(asks)
    assert [each.prefilled_tokens for each in got[:3]] == [each.prefilled_tokens for each in got[3:]]
    assert sum(each.prefilled_tokens for each in got) == family.num_tokens
    assert family.num_calls == 2  # beginnings, then the rest: whoever asks
    (again,) = cache.prefill([Ask(job_id="c", prompt=family.prepare(EDIT), tenant="ann")])
    (other,) = cache.prefill([Ask(job_id="d", prompt=family.prepare(EDIT), tenant="carl")])
    assert (again.prefilled_tokens, other.cached_tokens) == (0, 0)
    same(other.context, again.context)


def test_the_branches_of_an_edit_read_its_image_once(family: Counting) -> None:
    full, no_text, _ = read(PrefixCache(family, max_bytes=PLENTY), family, EDIT, NO_TEXT, NEGATIVE)
    assert (full.prefilled_tokens, full.cached_tokens) == (length(family, EDIT), 0)
    assert no_text.prefilled_tokens == length(family, NO_TEXT, 1)
    assert no_text.cached_tokens == length(family, NO_TEXT, 0)
    assert family.num_tokens == sum(length(family, each) for each in (EDIT, NEGATIVE)) + length(
        family, NO_TEXT, 1
    )


def test_a_round_takes_one_packed_call_and_two_when_prompts_share_a_beginning(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    for prompts, num_calls in (
        ((NEGATIVE, Prompt.draw("blue"), Prompt.ask("blue?")), 1),
        ((EDIT, NO_TEXT, QUESTION, Prompt.draw("red"), Prompt.draw("x", (OTHER,))), 2),
        ((Prompt.draw("redder", (PICTURE,)), Prompt.ask("how red?", (PICTURE,))), 1),
        ((EDIT, NEGATIVE), 0),
        ((Prompt.draw("y", (NOISE,)),), 1),
        ((Prompt.draw("z", (NOISE,)), Prompt.draw("", (NOISE,))), 1),
    ):
        before = family.num_calls
        read(cache, family, *prompts)
        assert family.num_calls - before == num_calls


def test_a_question_and_then_an_edit_read_the_image_once_when_the_words_before_it_agree(
    family: Counting,
) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    read(cache, family, asked_as_an_edit("how blue?"))
    (edit,) = read(cache, family, EDIT)
    assert edit.prefilled_tokens == length(family, EDIT, 1)
    (asked_otherwise,) = read(cache, family, QUESTION)
    assert asked_otherwise.cached_tokens == 0


def test_what_was_read_for_a_picture_is_read_deeper_for_an_answer(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    read(cache, family, EDIT)
    question = asked_as_an_edit("how blue?")
    (answer,) = read(cache, family, question)
    assert answer.prefilled_tokens == length(family, question)
    family.begin_answer(answer.context)
    (next_answer,) = read(cache, family, asked_as_an_edit("and how red?"))
    assert next_answer.cached_tokens == length(family, question, 0)


def test_what_a_picture_keeps_of_a_whole_prompt_is_no_beginning_of_another(family: Counting) -> None:
    tokens = (500, 40, 504, *(506,) * 4)
    first, longer = (Prompt.of_tokens(each, (PICTURE,), task="edit") for each in (tokens, (*tokens, 505)))
    cache = PrefixCache(family, max_bytes=PLENTY)
    assert read(cache, family, first)[0].prefilled_tokens == len(tokens)
    assert read(cache, family, longer)[0].prefilled_tokens == len(tokens) + 1


def test_a_beginning_within_a_beginning_is_counted_for_who_asked_for_it(family: Counting) -> None:
    prompts = Prompt.draw("both", (PICTURE, OTHER)), EDIT
    got = read(PrefixCache(family, max_bytes=PLENTY), family, *prompts)
    assert [each.prefilled_tokens for each in got] == [length(family, prompt) for prompt in prompts]


def test_the_deepest_of_equal_asks_serves_all(family: Counting) -> None:
    tokens = (500, 40, 41, 501)
    prompts = [Prompt.of_tokens(tokens, task=task) for task in ("generate", "understand", "generate")]
    drawn, answered, _ = read(PrefixCache(family, max_bytes=PLENTY), family, *prompts)
    assert family.num_tokens == 4
    assert drawn.context is answered.context
    family.begin_answer(answered.context)


@pytest.mark.parametrize(
    "other",
    [
        Prompt.draw("bluer", (OTHER,)),
        Prompt.ask("how blue?", (OTHER,)),
        Prompt.draw("bluer"),
        Prompt.ask("how blue?"),
    ],
    ids=["another image drawn", "another image asked about", "words drawn", "words asked"],
)
def test_what_begins_otherwise_is_no_hit(family: Counting, other: Prompt) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    read(cache, family, EDIT, QUESTION)
    assert read(cache, family, other)[0].cached_tokens == 0


def words(text: str, count: int) -> list[Prompt]:
    return [Prompt.draw(f"{text}{index}") for index in range(count)]


def kept(cache: PrefixCache, family: Counting, prompts: Sequence[Prompt]) -> list[bool]:
    """Say which prompts can be had without reading."""
    found = []
    family.is_broken = True
    for prompt in prompts:
        try:
            read(cache, family, prompt, job_id="look")
            found.append(True)
        except RuntimeError:
            found.append(False)
    cache.release("look")
    return found


def test_the_least_recently_used_goes_first(family: Counting) -> None:
    prompts = words("w", 4)
    num_bytes = family.prefill([prompts[0]])[0].num_bytes
    cache = PrefixCache(family, max_bytes=3 * num_bytes)
    for prompt in (*prompts[:3], prompts[0], prompts[3]):
        read(cache, family, prompt)
        cache.release("a")
    assert cache.num_bytes == 3 * num_bytes
    assert kept(cache, family, prompts) == [True, False, True, True]


def test_what_a_job_holds_stays_and_what_it_lets_go_of_may_go(family: Counting) -> None:
    prompts = words("w", 4)
    num_bytes = family.prefill([prompts[0]])[0].num_bytes
    cache = PrefixCache(family, max_bytes=num_bytes)
    read(cache, family, prompts[0], prompts[1], job_id="a")
    read(cache, family, prompts[0], prompts[2], job_id="b")
    assert cache.num_bytes == 3 * num_bytes
    cache.release("a")
    assert cache.num_bytes == 2 * num_bytes
    read(cache, family, prompts[3], job_id="c")
    cache.release("c")
    cache.release("nobody")
    assert cache.num_bytes == 2 * num_bytes
    assert kept(cache, family, prompts) == [True, False, True, False]
    cache.release("b")
    assert cache.num_bytes == num_bytes


def test_a_beginning_that_is_used_stays_though_nobody_holds_it(family: Counting) -> None:
    edits = [Prompt.draw(text, (PICTURE,)) for text in "abcdef"]
    beginning, whole = family.prefill([family.prepare(edits[0]).beginning(1), edits[0]])
    cache = PrefixCache(family, max_bytes=beginning.num_bytes + 2 * whole.num_bytes)
    for edit in edits:
        (each,) = read(cache, family, edit)
        cache.release("a")
        assert each.cached_tokens == (0 if edit is edits[0] else beginning.num_tokens)


def test_letting_go_is_a_use(family: Counting) -> None:
    prompts = words("w", 3)
    cache = PrefixCache(family, max_bytes=2 * family.prefill([prompts[0]])[0].num_bytes)
    read(cache, family, prompts[0], job_id="a")
    read(cache, family, prompts[1], job_id="b")
    cache.release("b")
    cache.release("a")
    read(cache, family, prompts[2])
    assert kept(cache, family, prompts) == [True, False, True]


def test_without_a_budget_only_what_is_held_is_shared(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=0)
    full, no_text = read(cache, family, EDIT, NO_TEXT)
    assert no_text.cached_tokens > 0
    assert cache.num_bytes == full.context.num_bytes + no_text.context.num_bytes
    assert read(cache, family, EDIT, job_id="b")[0].prefilled_tokens == 0
    for job_id in "ab":
        cache.release(job_id)
    assert cache.num_bytes == 0


def test_asks_that_fail_hold_nothing(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=0)
    read(cache, family, NEGATIVE, job_id="a")
    family.is_broken = True
    with pytest.raises(RuntimeError):
        read(cache, family, NEGATIVE, EDIT, job_id="b")
    cache.release("a")
    assert cache.num_bytes == 0


POOL = (EDIT, NO_TEXT, NEGATIVE, QUESTION, asked_as_an_edit("how blue?"), Prompt.draw("x", (PICTURE, OTHER)))
ROUND = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, len(POOL) - 1)), min_size=1, max_size=4)


@pytest.fixture(scope="session")
def alone(loaded: LoadedModel) -> list[Context]:
    return [loaded.family.prefill([prompt])[0] for prompt in POOL]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(steps=st.lists(ROUND | st.sampled_from("abc"), max_size=8), budget=st.integers(0, 12))
def test_whatever_comes_contexts_are_right_the_budget_holds_and_every_token_is_counted(
    loaded: LoadedModel, alone: list[Context], steps: list[Any], budget: int
) -> None:
    family = Counting(loaded.family)
    prepared = [family.prepare(prompt) for prompt in POOL]
    max_bytes = budget * alone[0].num_bytes
    cache = PrefixCache(family, max_bytes=max_bytes)
    held: dict[str, list[Context]] = {}
    for step in steps:
        before = family.num_tokens
        if isinstance(step, str):
            cache.release(step)
            held.pop(step, None)
            continue
        got = cache.prefill([Ask(job_id=job_id, prompt=prepared[index]) for job_id, index in step])
        assert sum(each.prefilled_tokens for each in got) == family.num_tokens - before
        for (job_id, index), each in zip(step, got, strict=True):
            same(each.context, alone[index])
            assert each.prefilled_tokens + each.cached_tokens == alone[index].num_tokens
            held.setdefault(job_id, []).append(each.context)
        in_use = {id(each): each.num_bytes for contexts in held.values() for each in contexts}
        assert sum(in_use.values()) <= cache.num_bytes <= max(max_bytes, sum(in_use.values()))


def test_the_empty_prompt_is_read_once_for_all_tenants(family: Counting) -> None:
    cache = PrefixCache(family, max_bytes=PLENTY)
    empty = family.prepare(Prompt.draw(""))
    asks = [Ask(job_id=tenant, prompt=empty, tenant=tenant) for tenant in ("ann", "bob")]
    first, second = cache.prefill(asks[:1]) + cache.prefill(asks[1:])
    assert second.context is first.context
    assert second.prefilled_tokens == 0
