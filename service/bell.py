"""News of jobs, within this process: who waits for a job's next change is woken by it."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator


class Bell:
    """Wakes those who wait for news of a job. What the news is, the database says."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def ring(self, job_id: str) -> None:
        """Wake all who wait for news of a job."""
        for listener in self._listeners.get(job_id, ()):
            listener.set()

    @contextlib.contextmanager
    def listen(self, job_id: str) -> Iterator[asyncio.Event]:
        """Give an event that is set at every change; to be cleared before the database is read."""
        listener = asyncio.Event()
        self._listeners[job_id].add(listener)
        try:
            yield listener
        finally:
            self._listeners[job_id].discard(listener)
            if not self._listeners[job_id]:
                del self._listeners[job_id]
