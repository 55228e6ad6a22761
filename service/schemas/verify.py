"""Whether a picture is ours: what is asked and what is answered."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from service.schemas.answers import Answer
from service.schemas.body import Encoded, Part


def _the_only(value: object) -> object:
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"must be one image, not {len(value)}")
        return value[0]
    return value


class VerifyRequest(Part):
    """A picture to look into."""

    image: Annotated[Encoded, BeforeValidator(_the_only)] = Field(
        description="The file as it is; what was decoded and encoded again has lost its credentials."
    )


class IngredientData(Answer):
    """An image that went into a picture."""

    title: str | None
    relationship: str | None = Field(
        description='"parentOf": what was edited. "inputTo": what was looked at.'
    )
    identifier: str | None = Field(description="Ours are the SHA-256 over its size and RGB pixels.")
    has_credentials: bool = Field(description="It came with credentials of its own, which are kept.")


class StatementData(Answer):
    """What the signer states; not known to be true, but known to be the signer's words if it is valid."""

    software: str | None
    model: str | None
    weights_sha256: str | None
    time: str | None = Field(description="When it was made, by the signer's clock.")
    is_ai: bool = Field(description="Made by a trained model, or edited by one.")
    actions: list[str]
    source_types: list[str] = Field(description="IPTC's words for where the pixels come from.")
    ingredients: list[IngredientData]
    prompt: str | None


class CredentialsData(Answer):
    """C2PA content credentials in a file."""

    present: bool
    valid: bool = Field(description="Signature and pixels are as they were when it was signed.")
    trusted: bool = Field(
        description="Valid, and the signer's certificate comes from one that is trusted here."
    )
    ours: bool = Field(description="Valid, and signed with this server's own certificate.")
    issuer: str | None = Field(description="The organisation that the signer's certificate names.")
    common_name: str | None
    problems: list[str] = Field(description="Why it is not valid, or not trusted.")
    statement: StatementData | None


class WatermarkData(Answer):
    """The invisible mark in the pixels, which says that an hbridge made them and proves nothing."""

    present: bool
    score: float = Field(description="0 on average without a mark.")
    threshold: float


class VerifyAnswer(Answer):
    """What a picture tells of where it comes from."""

    is_ours: bool = Field(description="Our signature is valid, or the mark is there.")
    content_credentials: CredentialsData
    watermark: WatermarkData
