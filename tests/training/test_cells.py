import torch

from model.hbridge.contexts import PackedContexts
from model.prompt import Prompt
from training.cells import NAMELESS, VALUES, Cells, Reader, cell_labels, thing_labels
from training.understanding import UnderstandingStage
from training.world import Scene, Thing

TEXTS = ("a red star", "a big blue cross")


def test_cells_are_labelled_with_what_has_its_centre_there() -> None:
    wide = Scene("white", (Thing("star", "red", "small", 70, 20, 5),), 96, 64)
    labels = cell_labels([Scene("pink", ()), wide], 16)
    there = 16 + 1 * 6 + 4
    for name, values in labels.items():
        assert len(values) == 16 + 24
        if name not in ("row", "column"):
            assert values.nonzero().flatten().tolist() == [there]
    read = {name: VALUES[name][values[there] - 1] for name, values in labels.items()}
    star = {"shape": "star", "colour": "red", "size": "small", "region": "top right"}
    assert read == {**star, "row": "1", "column": "4"}


def test_a_thing_is_labelled_with_the_cell_of_its_centre_and_none_with_nothing() -> None:
    thing = Thing("star", "red", "small", 70, 20, 5)
    scene = Scene("white", (thing,), 96, 64)
    labels = thing_labels([(scene, None), (scene, thing)], 8)
    assert all(values[0] == 0 for values in labels.values())
    read = {name: VALUES[name][values[1] - 1] for name, values in labels.items()}
    star = {"shape": "star", "colour": "red", "size": "small", "region": "top right"}
    assert read == {**star, "row": "2", "column": "8"}


def test_of_what_has_no_name_all_names_are_learnt_to_be_as_likely() -> None:
    torch.manual_seed(0)
    odd = Thing("star~cross", "red", "small", 8, 8, 5)
    labels = thing_labels([(Scene("white", (odd,)), odd)], 16)
    assert labels["shape"].tolist() == [NAMELESS]
    heads, features = Cells(8), torch.randn(1, 8)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        heads(features, labels).backward()
        optimizer.step()
    shapes, colours = (heads.heads[name](features).softmax(-1)[0] for name in ("shape", "colour"))
    torch.testing.assert_close(shapes[1:], torch.full((6,), 1 / 6), atol=0.01, rtol=0)
    assert colours.argmax() == labels["colour"]


def test_a_reader_learns_what_prompts_say(understanding: UnderstandingStage) -> None:
    """Of two prompts, and nowhere else to look."""
    torch.manual_seed(0)
    expert, layers = understanding.expert, (2, 3)
    reader = Reader(expert.config, layers)
    prompts = [
        understanding.processor.encode(Prompt.draw(text)) for text in ("a red star", "a big blue cross")
    ]
    with torch.no_grad():
        contexts = PackedContexts.of(expert.prefill(prompts, keep=layers), layers)
    scenes = [
        Scene("white", (Thing("star", "red", "small", 24, 24, 5),)),
        Scene("white", (Thing("cross", "blue", "large", 24, 24, 8),)),
    ]
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = reader(contexts, scenes)
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    with torch.no_grad():
        assert reader(contexts, scenes[::-1]) > 10 * loss


def test_a_reader_reads_packed_prompts_as_each_alone(understanding: UnderstandingStage) -> None:
    expert, layers = understanding.expert, (2, 5)
    reader = Reader(expert.config, layers)
    prompts = [understanding.processor.encode(Prompt.draw(text)) for text in TEXTS]
    scenes = [Scene("white", ()), Scene("white", ())]
    with torch.no_grad():
        contexts = expert.prefill(prompts, keep=layers)
        together = reader(PackedContexts.of(contexts, layers), scenes)
        alone = [reader(PackedContexts.of([each], layers), scenes[:1]) for each in contexts]
    torch.testing.assert_close(together, torch.stack(alone).mean())
