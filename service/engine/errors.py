"""What the engine may say instead of a result.

EngineError
├── EngineUnavailable          nothing is taken in at the moment; says when to come back
│   ├── EngineBusy             as many jobs wait as may wait
│   ├── DeadlineUnreachable    it would come too late, even alone on the device
│   ├── EngineNotReady         weights are not loaded or not warmed up
│   ├── EngineRestarting       it ended by itself and is on its way up again
│   └── EngineDraining         on its way down
├── DeadlineExceeded           it was not done in time
├── InsufficientMemory         this job alone did not fit
└── JobFailed                  our fault; the words are in the log only
"""


class EngineError(Exception):
    """Base of what the engine says instead of a result."""


class EngineUnavailable(EngineError):
    """Nothing is taken in at the moment.

    Attributes:
        retry_after_seconds: When asking again makes sense.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineBusy(EngineUnavailable):
    """As many jobs wait as may wait."""


class DeadlineUnreachable(EngineUnavailable):
    """The job would come too late, even alone on the device."""


class EngineNotReady(EngineUnavailable):
    """Weights are not loaded or not warmed up."""


class EngineRestarting(EngineUnavailable):
    """The engine ended by itself, with all jobs that were in it, and is on its way up again."""


class EngineDraining(EngineUnavailable):
    """The engine is on its way down and takes no more jobs."""


class DeadlineExceeded(EngineError):
    """The job was not done in time."""


class InsufficientMemory(EngineError):
    """This job alone did not fit into memory."""


class JobFailed(EngineError):
    """The job failed by a fault of ours."""
