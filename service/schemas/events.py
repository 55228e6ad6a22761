"""What a stream tells before its last event, which is the answer or an error."""

from pydantic import Field

from service.schemas.answers import Answer


class ProgressEvent(Answer):
    """Where a request stands: in which stage, and how many of its units are done."""

    stage: str
    done: int
    total: int
    eta_seconds: float | None = Field(description="Until the answer, as far as it can be told.")


class PartialImageEvent(Answer):
    """A rough look at a picture in the making."""

    partial_image_index: int = Field(description="Counts from 0, for each picture.")
    image_index: int = Field(description="Which of n pictures.")
    b64_json: str = Field(description="The file, in base64.")
    width: int
    height: int
    mime_type: str


class TextDeltaEvent(Answer):
    """The next words of an answer; all of them together are the answer."""

    text: str
