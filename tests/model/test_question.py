from pathlib import Path

import pytest
import torch

from model.checkpoint import load
from model.errors import BadRequest
from model.hbridge.family import HBridge
from model.pipeline import answer
from model.prompt import Turn
from model.question import Question, Reply, choose_token, read_question


@pytest.fixture(scope="module")
def family(drawing_folder: Path) -> HBridge:
    family = load(drawing_folder)
    assert isinstance(family, HBridge)
    return family


def question(text: str = "what?", **given: object) -> Question:
    return Question(turns=(Turn("user", (text,)),), **{"max_tokens": 5, **given})  # type: ignore[arg-type]


def test_replies_written_in_one_call_are_those_written_alone(family: HBridge) -> None:
    asked = [question("what?"), question("how many of them?", max_tokens=3)]
    contexts = family.prefill([read_question(each, family.capabilities) for each in asked])
    replies = [Reply(family, each, context) for each, context in zip(asked, contexts, strict=True)]
    while going := [reply for reply in replies if not reply.is_done]:
        logits_RV = family.next_tokens([reply.row() for reply in going])
        for reply, logits_V in zip(going, logits_RV, strict=True):
            reply.advance(logits_V)
    for reply, each in zip(replies, asked, strict=True):
        alone = answer(family, each)
        assert (reply.finish().text, reply.usage) == (alone.text, alone.usage)


def test_a_question_is_refused_before_it_is_read(family: HBridge) -> None:
    for bad in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(BadRequest):
            read_question(question(**bad), family.capabilities)


def test_no_temperature_takes_the_likeliest() -> None:
    logits_V = torch.tensor([0.0, 3.0, 1.0])
    assert choose_token(logits_V, 0.0, 1.0, torch.Generator()) == 1


def test_the_nucleus_holds_only_the_mass_asked_for() -> None:
    logits_V = torch.tensor([0.6, 0.3, 0.1]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [choose_token(logits_V, 1.0, 0.7, generator) for _ in range(200)]
    assert set(drawn) == {0, 1}
    assert {choose_token(logits_V, 1.0, 1.0, generator) for _ in range(200)} == {0, 1, 2}
    assert {choose_token(logits_V, 1.0, 0.5, generator) for _ in range(20)} == {0}


def test_draws_follow_the_chances() -> None:
    logits_V = torch.tensor([0.8, 0.2]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [choose_token(logits_V, 1.0, 1.0, generator) for _ in range(2000)]
    assert 0.15 < sum(drawn) / 2000 < 0.25


@pytest.mark.parametrize(("temperature", "top_p"), [(-0.1, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_chances_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(BadRequest):
        choose_token(torch.zeros(3), temperature, top_p, torch.Generator())
