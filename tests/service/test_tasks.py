import asyncio
from typing import get_args

import pytest
from starlette.testclient import TestClient

from model.prompt import Task
from service.schemas.body import Body
from service.schemas.drawing import GenerateRequest
from service.tasks import SCHEMAS, to_job
from service.tenant import LOCAL, Tenant
from tests.service.local_client import service_of


def test_every_task_has_a_schema() -> None:
    assert set(SCHEMAS) == set(get_args(Task))


def test_a_body_of_no_task_is_a_fault_of_ours() -> None:
    class Anybody:
        def check_model(self, asked: str | None) -> None: ...

    with pytest.raises(TypeError, match="no task takes a Body"):
        asyncio.run(to_job(Anybody(), Body(), "req-1", LOCAL))  # type: ignore[arg-type]


def test_a_job_brings_its_tenants_name_and_weight(web: TestClient) -> None:
    asked = GenerateRequest(prompt="a")
    job = asyncio.run(to_job(service_of(web), asked, "req-1", Tenant(name="ann", weight=2.5)))
    assert (job.id, job.tenant, job.weight) == ("req-1", "ann", 2.5)
