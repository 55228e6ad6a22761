import asyncio
from typing import get_args

import pytest

from model.prompt import Task
from service.schemas.body import Body
from service.tasks import SCHEMAS, to_job


def test_every_task_has_a_schema() -> None:
    assert set(SCHEMAS) == set(get_args(Task))


def test_a_body_of_no_task_is_a_fault_of_ours() -> None:
    class Anybody:
        def check_model(self, asked: str | None) -> None: ...

    with pytest.raises(TypeError, match="no task takes a Body"):
        asyncio.run(to_job(Anybody(), Body(), "req-1"))  # type: ignore[arg-type]
