"""Every error a caller of the model may meet.

ModelError
├── BadRequest                 what was asked cannot be done as asked; says what to change
│   ├── PromptTooLong
│   ├── UnsupportedSize
│   ├── InvalidImage
│   │   └── ImageTooLarge
│   └── TooManyReferences
├── BadCheckpoint              a folder that is not what its config says; names files and tensors
├── UnusableQuantization       a scheme that is unknown, or cannot run on this device
├── MissingCapability          this family or checkpoint cannot do the task at all
└── Cancelled                  the caller asked to stop; nothing is wrong
"""


class ModelError(Exception):
    """Base of all errors that callers of the model may handle."""


class BadRequest(ModelError):
    """What was asked cannot be done as asked.

    Attributes:
        param: The request's field that is wrong, in the words of the wire.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(BadRequest):
    """More prompt tokens than the understanding expert reads."""


class UnsupportedSize(BadRequest):
    """A size that is not a multiple of the model's step or lies outside its limits."""


class InvalidImage(BadRequest):
    """Bytes that are no picture, or a picture beyond the limits."""

    def __init__(self, message: str, *, param: str | None = "image") -> None:
        super().__init__(message, param=param)


class ImageTooLarge(InvalidImage):
    """A picture with more bytes or pixels than are opened."""


class TooManyReferences(BadRequest):
    """More images than the model takes."""


class BadCheckpoint(ModelError):
    """A checkpoint folder that cannot be loaded; the message lists every problem."""


class UnusableQuantization(ModelError):
    """A quantization that cannot be done here; says what is missing."""


class MissingCapability(ModelError):
    """The loaded checkpoint cannot do this task."""


class Cancelled(ModelError):
    """The caller stopped the work."""
