import pytest
import torch

from benchmarks.device.networks import Networks
from benchmarks.device.plan import BRANCHES, MODELS, TASKS, TOY, Case, Model, Task
from benchmarks.device.workload import Workload
from model.registry import LoadableFamily

STEPS = TOY.num_steps["hbridge"]


@pytest.fixture(scope="module")
def families() -> dict[Model, LoadableFamily]:
    networks = Networks(torch.device("cpu"), TOY, seed=3)
    return {model: networks.get(model, "float32").family for model in MODELS}


def workload(families: dict[Model, LoadableFamily], model: Model, task: Task, batch: int) -> Workload:
    case = Case(kind="step", model=model, task=task, side=32, batch=batch)
    return Workload(families[model], case, TOY, seed=5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_a_batch_has_a_row_for_each_picture_and_branch_at_times_of_their_own(
    families: dict[Model, LoadableFamily], model: Model, task: Task
) -> None:
    rows = workload(families, model, task, 4).pictures().rows()
    assert len(rows) == 4 * BRANCHES[task]
    assert len({row.time for row in rows}) == 4
    assert len({row.latent_CYX.shape for row in rows}) > 1
    assert sum(bool(row.references) for row in rows) == (0 if task == "generate" else 8)
    assert all(v.isfinite().all() for v in families[model].velocity(rows))


def test_the_same_seed_asks_the_same_and_another_asks_something_else(
    families: dict[Model, LoadableFamily],
) -> None:
    case = Case(kind="step", model="hbridge", task="edit", side=32)
    keys = [
        [
            block.key
            for prompt in Workload(families["hbridge"], case, TOY, seed).prompts
            for block in prompt.blocks
        ]
        for seed in (1, 1, 2)
    ]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_only_an_expert_that_sees_references_has_them_in_its_prompts(
    families: dict[Model, LoadableFamily],
) -> None:
    seen, unseen = (workload(families, model, "edit", 1).prompts for model in MODELS)
    assert [prompt.num_image_tokens > 0 for prompt in seen] == [True, True, False]
    assert [prompt.num_image_tokens for prompt in unseen] == [0, 0, 0]


def test_pictures_are_drawn_from_the_same_noise_again_and_again(
    families: dict[Model, LoadableFamily],
) -> None:
    pictures = workload(families, "hbridge", "generate", 1).pictures()
    velocity = families["hbridge"].velocity
    first, again = pictures.draw(velocity), pictures.draw(velocity)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert pictures.easels[0].is_done
    taken: list[int] = []
    part = pictures.draw(velocity, num_steps=STEPS - 1, before_step=taken.append)
    assert taken == list(range(STEPS - 1))
    assert not torch.equal(part[0], first[0])
