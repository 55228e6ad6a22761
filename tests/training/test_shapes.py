import torch

from model.hbridge.family import HBridge
from training.drawings import Shelf
from training.prefills import Prefills, packed
from training.schedule import MicroBatch
from training.shapes import Shapes


def test_a_micro_batch_is_of_one_task_and_the_same_every_time(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    shapes = Shapes(bridged, shelves, prefills, edit_share=0.5)
    tasks = set()
    for step in range(12):
        batch = MicroBatch(step=step, size=3)
        given, again = shapes.draw(batch, 0.1), shapes.draw(batch, 0.1)
        tasks.add(given.task)
        assert {len(each) for each in given.references} == {given.task == "edit"}
        assert all(torch.equal(a, b) for a, b in zip(given.latents, again.latents, strict=True))
        assert torch.equal(given.seen_RNW, again.seen_RNW)
    assert tasks == {"edit", "generate"}


def test_dropped_prompts_have_lost_their_words(
    bridged: HBridge, shelves: list[Shelf], prefills: list[Prefills]
) -> None:
    shapes = Shapes(bridged, shelves[:1], prefills[:1], edit_share=0.0)
    batch = MicroBatch(size=4)
    blank = packed([prefills[0].prompt(0, blank=True)] * 4)
    assert shapes.draw(batch, 1.0).contexts.lengths == blank.lengths
    assert torch.equal(shapes.draw(batch, 1.0).contexts.keys[0], blank.keys[0])
    assert shapes.draw(batch, 0.0).contexts.lengths > blank.lengths
