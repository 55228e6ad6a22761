from typing import Any

import torch

from model.family import Context, Row, Size, TextRow
from model.prompt import Prompt, Turn
from service.engine.job import LoadedModel
from service.engine.tally import Tally

QUESTION = Prompt(task="understand", turns=(Turn("user", ("what?",)),))


def test_what_was_taken_is_counted_no_more(loaded: LoadedModel) -> None:
    tally: Any = Tally(loaded.family)
    latents = [tally.noise(Size(32, 32), 0)]
    tally.decode(latents)
    taken = tally.take()
    assert taken == loaded.family.flops.decode(latents) > 0
    assert tally.take() == 0


def test_every_call_that_computes_is_counted_and_gives_what_the_family_gives(loaded: LoadedModel) -> None:
    tally: Any = Tally(loaded.family)
    family = loaded.family
    prompts = [family.prepare(Prompt.draw("a")), family.prepare(QUESTION)]
    contexts: list[Context] = tally.prefill(prompts, prefixes=[None, None])
    assert tally.take() == family.flops.prefill(prompts, [None, None])
    rows = [Row(latent_CYX=family.noise(Size(32, 32), 0), time=0.5, context=contexts[0])]
    assert torch.equal(tally.velocity(rows)[0], family.velocity(rows)[0])
    assert tally.take() == family.flops.velocity(rows)
    token = TextRow(token=3, cache=tally.begin_answer(contexts[1])[0])
    expected = family.flops.next_tokens([token])
    tally.next_tokens([token])
    assert tally.take() == expected < family.flops.next_tokens([token])
