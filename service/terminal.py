"""What the commands share: where they write, how they tell the user's faults, which settings they take."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from model.errors import ModelError
from service.engine.errors import EngineError
from service.settings import Settings

screen = Console(stderr=True)

USERS_FAULT = 2

Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint folder, short name, or Hugging Face id at a commit (HBRIDGE_MODEL)."),
]
Device = Annotated[str | None, typer.Option(help="PyTorch device, such as cpu or cuda:0 (HBRIDGE_DEVICE).")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (HBRIDGE_DTYPE).")]
LoadFormat = Annotated[
    str | None,
    typer.Option(help="auto, or random for random weights of the model's config (HBRIDGE_LOAD_FORMAT)."),
]
Quantization = Annotated[
    str | None, typer.Option(help="none, int8 or fp8; changes results (HBRIDGE_QUANTIZATION).")
]
Offload = Annotated[
    str | None,
    typer.Option(help="none, or layers to keep weights in the host's memory (HBRIDGE_OFFLOAD)."),
]


@contextmanager
def users_faults() -> Iterator[None]:
    """Say in a line what the user can change, and end with 2."""
    try:
        yield
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        _fail("settings: " + "; ".join(problems))
    except (ModelError, EngineError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    screen.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(USERS_FAULT)


def settings_with(**given: Any) -> Settings:
    """Return the environment's settings, changed by the options that were given."""
    return Settings(**{name: value for name, value in given.items() if value is not None})
