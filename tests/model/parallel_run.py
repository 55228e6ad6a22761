"""One of the processes that compute steps together: python -m tests.model.parallel_run FOLDER RANK NUM."""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.checkpoint import build_random
from model.family import Row
from model.parallel import Group, ParallelFamily, follow

Case = tuple[dict[str, Any], list[list[Row]]]
"""A family's config, and the rows of one step after another."""


def main(folder: Path, rank: int, num: int) -> None:
    """Compute every case's steps, and as the leader write down what they give."""
    torch.set_num_threads(1)
    store = f"file://{folder / f'store-{num}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=num)
    cases: list[Case] = torch.load(folder / "cases.pt", weights_only=False)
    found = []
    for config, steps in cases:
        family = build_random(config)
        group = Group(family, torch.device("cpu"))
        if rank:
            follow(group)
            continue
        leader = ParallelFamily(family, group, fail=print)
        found.append([leader.velocity(rows) for rows in steps])
        leader.close()
    if rank == 0:
        torch.save(found, folder / f"found-{num}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
