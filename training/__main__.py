"""`torchrun --nproc-per-node 2 -m training --recipe tiny`: a stage trained by several processes."""

import typer

from training.cli import train

if __name__ == "__main__":
    typer.run(train)
