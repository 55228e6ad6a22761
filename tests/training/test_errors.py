from model.errors import ModelError
from training.errors import BrokenRecord, TrainingRefused


def test_the_command_line_tells_what_training_refuses_in_a_line() -> None:
    assert issubclass(BrokenRecord, TrainingRefused)
    assert issubclass(TrainingRefused, ModelError)
