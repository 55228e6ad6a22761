"""The process that measures, as seen by the one that keeps the time.

Whatever happens over there, a hang, a crash or a device that no longer answers, costs one case.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

KILL_SECONDS = 5.0


class Late(Exception):
    """No answer came in time."""


class Gone(Exception):
    """The process ended instead of answering."""


class Host:
    """A process that answers messages one by one; started by the first, and again after its end.

    Args:
        work: What runs there, over its end of a pipe. It must be importable by name.
        words: Further arguments of it.
    """

    def __init__(self, work: Callable[..., None], *words: Any) -> None:
        self._work, self._words = work, words
        self._context = multiprocessing.get_context("spawn")  # a CUDA device survives no fork
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    @property
    def is_up(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def ask(self, message: Any, seconds: float) -> Any:
        """Send a message and return the answer.

        Raises:
            Late: None came within these seconds; the process is killed.
            Gone: It ended.
        """
        if self._line is None:
            self._line, theirs = self._context.Pipe()
            self._process = self._context.Process(target=self._work, args=(theirs, *self._words), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._line.send(message)
            if not self._line.poll(max(0.0, seconds)):
                self.stop()
                raise Late(f"stopped after {seconds:.0f} s")
            return self._line.recv()
        except (EOFError, OSError) as error:
            raise Gone(f"the measuring process ended with {self.stop()}") from error

    def stop(self) -> str:
        """End the process; return how it ended."""
        process, line = self._process, self._line
        self._process = self._line = None
        if process is None or line is None:
            return "nothing"
        line.close()
        process.join(0.5)
        if process.exitcode is None:
            process.kill()
            process.join(KILL_SECONDS)
        code = process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"status {code}"
