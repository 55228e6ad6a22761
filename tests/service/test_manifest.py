from dataclasses import replace
from typing import Any

import pytest

from service.manifest import (
    EDITED,
    GENERATION,
    MADE,
    MAX_CHARS,
    Manifest,
    Source,
    Statement,
    definition,
    ingredients,
)

STATEMENT = Statement(model="tiny", weights_sha256="ab")
SOURCES = (Source(pixels_sha256="1"), Source(pixels_sha256="2"))


def read(stated: dict[str, Any]) -> Any:
    return Manifest.model_validate(stated).statement()


def test_what_is_stated_is_read_again() -> None:
    told = read(definition(replace(STATEMENT, prompt="a fox"), is_marked=True))
    assert (told.model, told.weights_sha256, told.prompt) == ("tiny", "ab", "a fox")
    assert told.software.startswith("hbridge ")
    assert (told.is_ai, told.source_types) == (True, [MADE])
    assert told.actions == ["c2pa.created", "c2pa.watermarked.unbound"]


def test_a_prompt_that_is_not_given_is_not_stated() -> None:
    assert "prompt" not in str(definition(STATEMENT, is_marked=False))


def test_an_edit_is_of_its_first_image_and_looks_at_the_others() -> None:
    edit = replace(STATEMENT, sources=SOURCES)
    told = read(definition(edit, is_marked=False) | {"ingredients": ingredients(edit)})
    assert (told.actions, told.source_types) == (["c2pa.opened", "c2pa.edited"], [EDITED])
    assert [each.relationship for each in told.ingredients] == ["parentOf", "inputTo"]
    assert [each.identifier for each in told.ingredients] == ["sha256:1", "sha256:2"]


def test_every_action_refers_to_ingredients_that_there_are() -> None:
    for sources in (SOURCES[:1], SOURCES):
        edit = replace(STATEMENT, sources=sources)
        labels = [each["label"] for each in ingredients(edit)]
        actions = definition(edit, is_marked=True)["assertions"][0]["data"]["actions"]
        used = [label for each in actions for label in each.get("parameters", {}).get("ingredientIds", [])]
        assert used == labels


@pytest.mark.parametrize("data", [None, 1, [], {"actions": 3}, {"model": {}}, {"actions": [{"what": 1}]}])
def test_what_others_state_in_odd_forms_is_passed_over(data: object) -> None:
    labels = ("c2pa.actions.v2", "c2pa.actions", GENERATION, "com.example.other")
    told = read({"assertions": [{"label": label, "data": data} for label in labels]})
    assert (told.actions, told.model, told.is_ai) == ([], None, False)


def test_a_foreign_text_is_told_only_in_its_beginning() -> None:
    long = "a" * 10**6
    data = {"actions": [{"action": long, "digitalSourceType": long, "when": long}]}
    told = read(
        {
            "claim_generator_info": [{"name": long}],
            "assertions": [
                {"label": "c2pa.actions", "data": data},
                {"label": GENERATION, "data": {"model": long, "prompt": long}},
            ],
            "ingredients": [{"title": long}],
        }
    )
    texts = [told.software, told.model, told.time, told.prompt, *told.actions, *told.source_types]
    assert {len(text) for text in [*texts, told.ingredients[0].title]} == {MAX_CHARS}
