"""What is stated of a picture, and how that is said in a C2PA manifest, in both directions.

Source: C2PA Technical Specification 2.2, the assertions "actions" and "ingredient"; IPTC's digital source
types.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.schemas.verify import IngredientData, StatementData

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE = "trainedAlgorithmicMedia"
EDITED = "compositeWithTrainedAlgorithmicMedia"
GENERATION = "org.hbridge.generation"
"""Our own assertion: the model and its weights."""

MAX_CHARS = 500
"""Of a foreign text that is told on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An image that goes into a picture.

    Attributes:
        pixels_sha256: As model.images.pixels_hash.
        file: As it came, whose own credentials are kept; None if it is not at hand.
    """

    pixels_sha256: str
    file: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is stated of a picture.

    Attributes:
        sources: Images of an edit, in order; a picture from words has none.
        prompt: None is not stated.
    """

    model: str
    weights_sha256: str
    sources: tuple[Source, ...] = ()
    prompt: str | None = None


def definition(statement: Statement, *, is_marked: bool) -> dict[str, Any]:
    """Return the definition of a manifest, but for its ingredients.

    Args:
        statement: What to state; the time is now.
        is_marked: The pixels have the invisible mark.
    """
    agent = {"name": "hbridge", "version": version("hbridge")}
    act = {"when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "softwareAgent": agent}
    labels = [_label(index) for index in range(len(statement.sources))]
    actions: list[dict[str, Any]] = []
    if labels:
        seen = {"parameters": {"ingredientIds": labels[1:]}} if labels[1:] else {}
        actions.append(act | {"action": "c2pa.opened", "parameters": {"ingredientIds": labels[:1]}})
        actions.append(act | seen | {"action": "c2pa.edited", "digitalSourceType": SOURCE_TYPES + EDITED})
    else:
        actions.append(act | {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + MADE})
    if is_marked:
        actions.append(act | {"action": "c2pa.watermarked.unbound"})
    generation = {"model": statement.model, "weights_sha256": statement.weights_sha256}
    if statement.prompt is not None:
        generation["prompt"] = statement.prompt
    return {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions}},
            {"label": GENERATION, "data": generation},
        ],
    }


def ingredients(statement: Statement) -> list[dict[str, str]]:
    """Return the definitions of a statement's sources, in order."""
    return [
        {
            "label": _label(index),
            "title": f"image {index + 1}",
            "relationship": "inputTo" if index else "parentOf",
            "instance_id": f"sha256:{source.pixels_sha256}",
        }
        for index, source in enumerate(statement.sources)
    ]


def _label(index: int) -> str:
    return f"source-{index}"


class Part(BaseModel):
    """Any object that a C2PA reader tells; it may hold more than is looked at."""

    model_config = ConfigDict(frozen=True)


class Software(Part):
    """Who made a manifest."""

    name: str = ""
    version: str | None = None


class Signature(Part):
    """Whose signature it has."""

    issuer: str | None = None
    common_name: str | None = None


class Assertion(Part):
    """One thing that is stated, in a form that depends on its label."""

    label: str
    data: Any = None


class Ingredient(Part):
    """A source."""

    title: str | None = None
    relationship: str | None = None
    instance_id: str | None = None
    active_manifest: str | None = None


class Manifest(Part):
    """A manifest as a C2PA reader tells it."""

    claim_generator_info: tuple[Software, ...] = ()
    signature_info: Signature = Signature()
    assertions: tuple[Assertion, ...] = ()
    ingredients: tuple[Ingredient, ...] = ()

    def statement(self) -> StatementData:
        """Return what it says, as far as it is said in words that are known here."""
        found = (
            _parsed(Actions, each.data) for each in self.assertions if each.label.startswith("c2pa.actions")
        )
        actions = [action for each in found for action in each.actions]
        kinds = [action.source_type.rpartition("/")[2] for action in actions if action.source_type]
        made = next((each.data for each in self.assertions if each.label == GENERATION), None)
        generation = _parsed(Generation, made)
        software = self.claim_generator_info[0] if self.claim_generator_info else Software()
        return StatementData(
            software=shortened(f"{software.name} {software.version or ''}".strip()),
            model=shortened(generation.model),
            weights_sha256=shortened(generation.weights_sha256),
            time=shortened(next((action.when for action in actions if action.when), None)),
            is_ai=any(kind in (MADE, EDITED) for kind in kinds),
            actions=[action.action[:MAX_CHARS] for action in actions],
            source_types=[kind[:MAX_CHARS] for kind in kinds],
            ingredients=[
                IngredientData(
                    title=shortened(each.title),
                    relationship=shortened(each.relationship),
                    identifier=shortened(each.instance_id),
                    has_credentials=each.active_manifest is not None,
                )
                for each in self.ingredients
            ],
            prompt=shortened(generation.prompt),
        )


class Action(Part):
    """Something that was done to a picture."""

    action: str
    when: str | None = None
    source_type: str | None = Field(None, alias="digitalSourceType")


class Actions(Part):
    """All of it, in order."""

    actions: tuple[Action, ...] = ()


class Generation(Part):
    """The content of our own assertion."""

    model: str | None = None
    weights_sha256: str | None = None
    prompt: str | None = None


AnyPart = TypeVar("AnyPart", bound=Part)


def _parsed(kind: type[AnyPart], data: object) -> AnyPart:
    """Return what somebody stated, or nothing if it is not of the form that it should have."""
    try:
        return kind.model_validate(data)
    except ValidationError:
        return kind()


def shortened(text: str | None) -> str | None:
    """Return a foreign text, or its beginning; None of nothing."""
    return text[:MAX_CHARS] if text else None
