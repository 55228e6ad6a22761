from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.checkpoint import load
from model.hbridge.contexts import PackedContexts
from model.hbridge.family import HBridge
from model.prompt import Prompt
from tests.training.conftest import png, write_dataset
from training.bridge import Given
from training.corpus import Corpus
from training.errors import BrokenRecord
from training.records import Columns, Records
from training.schedule import MicroBatch, Schedule

SCHEDULE = Schedule(steps=100, batch=4, micro_batch=2, learning_rate=1.0)


@pytest.fixture(scope="module")
def family(start: Path) -> HBridge:
    family = load(start / "start")
    assert isinstance(family, HBridge)
    return family


def datasets(start: Path, *, weight: int = 1) -> list[Records]:
    generate = Columns(path=str(start / "data/generate"), weight=weight)
    edit = Columns(path=str(start / "data/edit"), references=("source",), held_out=2)
    return [Records(columns, cache=start / "cache") for columns in (generate, edit)]


@pytest.fixture
def corpus(family: HBridge, start: Path) -> Iterator[Corpus]:
    corpus = Corpus(family, datasets(start), max_pixels=32 * 48)
    yield corpus
    corpus.close()


def assert_same(one: Given, other: Given) -> None:
    assert (one.task, one.contexts.lengths) == (other.task, other.contexts.lengths)
    for ours, theirs in zip(one.latents, other.latents, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(one.seen_RNW, other.seen_RNW)
    assert all(torch.equal(a, b) for a, b in zip(one.contexts.keys, other.contexts.keys, strict=True))


@pytest.mark.parametrize("weight", [1, 3])
def test_processes_share_an_epoch_and_see_every_sample_once(
    family: HBridge, start: Path, weight: int
) -> None:
    corpus = Corpus(family, datasets(start, weight=weight), max_pixels=32 * 48)
    numbers: dict[str, list[int]] = {"generate": [], "edit": []}
    steps = Counter[str]()
    for step in range(8 * (weight + 1)):
        batches = SCHEDULE.micro_batches(step)
        found = [corpus.whose(batch) for rank in (1, 0) for batch in batches[rank::2]]
        assert len({id(records) for records, _ in found}) == 1
        name = Path(found[0][0].columns.path).name
        steps[name] += 1
        firsts = sorted(first for _, first in found)
        numbers[name] += [first + index for first in firsts for index in (0, 1)]
    assert steps["generate"] == weight * steps["edit"]
    for records in corpus.datasets:
        mine = numbers[Path(records.columns.path).name]
        assert mine == list(range(len(mine)))
        epochs = [
            [records.place(number) for number in mine[first : first + records.count]]
            for first in range(0, len(mine) - records.count + 1, records.count)
        ]
        assert epochs
        assert all(sorted(epoch) == list(range(records.count)) for epoch in epochs)


def test_a_micro_batch_is_the_same_whatever_was_read_before_it(
    corpus: Corpus, family: HBridge, start: Path
) -> None:
    batches = [batch for step in range(3) for batch in SCHEDULE.micro_batches(step)]
    in_order = [corpus.draw(batch, 0.5) for batch in batches]
    for place in (4, 1):
        fresh = Corpus(family, datasets(start), max_pixels=32 * 48, team_size=2)
        assert_same(fresh.draw(batches[place], 0.5), in_order[place])
        fresh.close()


def test_the_frozen_side_says_what_it_says_in_serving(corpus: Corpus, family: HBridge) -> None:
    for step, task in enumerate(("generate", "edit")):
        batch = MicroBatch(step=step, size=3)
        records, first = corpus.whose(batch)
        examples = [records.record(records.place(first + index), lambda each: each) for index in range(3)]
        given = corpus.draw(batch, 0.0)
        assert given.task == task
        prompts = [Prompt.draw(each.text, each.references) for each in examples]
        wanted = PackedContexts.of(family.prefill(prompts), family.config.pairs)
        assert (given.contexts.lengths, given.contexts.next_ids) == (wanted.lengths, wanted.next_ids)
        for ours, theirs in zip(given.contexts.values, wanted.values, strict=True):
            torch.testing.assert_close(ours, theirs)
        for example, latent, references in zip(examples, given.latents, given.references, strict=True):
            torch.testing.assert_close(latent, family.encode([example.image])[0])
            assert len(references) == len(example.references)
        assert not given.contexts.keys[0].requires_grad
        assert not given.seen_RNW.is_inference()


def test_a_dropped_prompt_keeps_its_references(corpus: Corpus) -> None:
    batch = MicroBatch(step=1, size=2)
    full, dropped = corpus.draw(batch, 0.0), corpus.draw(batch, 1.0)
    assert sum(dropped.contexts.lengths) < sum(full.contexts.lengths)
    assert [len(each) for each in dropped.references] == [1, 1]


def test_large_pictures_are_reduced_to_whole_steps(family: HBridge, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"image": [png(0, (100, 60))]}, ["large"])
    records = Records(Columns(path=str(tmp_path / "data")), cache=tmp_path)
    corpus = Corpus(family, [records], max_pixels=32 * 32)
    channels, rows, columns = corpus.draw(MicroBatch(size=1), 0.0).latents[0].shape
    corpus.close()
    assert (channels, rows % 2, columns % 2) == (4, 0, 0)
    assert rows * columns * 64 <= 32 * 32
    assert columns > rows


@pytest.mark.parametrize(
    ("size", "text", "said"),
    [((8, 8), "small", "is too small"), ((32, 32), "long " * 4000, "record 0: .*tokens")],
)
def test_what_the_model_cannot_take_is_named(
    family: HBridge, tmp_path: Path, size: tuple[int, int], text: str, said: str
) -> None:
    write_dataset(tmp_path / "data", {"image": [png(0, size)]}, [text])
    records = Records(Columns(path=str(tmp_path / "data")), cache=tmp_path)
    corpus = Corpus(family, [records], max_pixels=32 * 32)
    with pytest.raises(BrokenRecord, match=said):
        corpus.draw(MicroBatch(size=1), 0.0)
    corpus.close()
