"""What training refuses, in the words of whoever started it."""

from model.errors import ModelError


class TrainingRefused(ModelError):
    """A recipe or its data cannot be trained on as they are; the message says what to change."""


class BrokenRecord(TrainingRefused):
    """A record cannot be learnt from; the message names its file."""
