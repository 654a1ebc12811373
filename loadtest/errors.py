"""Errors that end a command: each is one clear sentence that says what to do.

LoadTestError
├── ScenarioError     a scenario file or an option makes no sense                    exit code 2
├── TargetError       the server cannot be reached, refuses us, or serves no model    exit code 2
├── RunFolderError    a folder already holds a run, or does not hold one              exit code 2
├── StorageError      a run's files can no longer be written                          exit code 3
├── WorkerError       every driver process of a run has died                          exit code 3
└── PredictionError   a run does not show enough to predict from                      exit code 2
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED, MISTAKE, NOT_TO_BE_BELIEVED = 130, 2, 3  # exit codes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, or what one user may have of it


class LoadTestError(Exception):
    """Base of every error meant for the user: one sentence, printed without a traceback."""


class ScenarioError(LoadTestError):
    """What was asked for makes no sense: an unknown key, an impossible list of levels, a missing prompt file."""


class TargetError(LoadTestError):
    """The server cannot be measured: unreachable, refusing, not a model server, or without the model asked for."""


class RunFolderError(LoadTestError):
    """A folder already holds a run, or is not a run folder."""


class StorageError(LoadTestError):
    """A run's files can no longer be written (disk full, folder removed); every line written before is whole."""


class WorkerError(LoadTestError):
    """Every driver process of a run has died; the records they wrote are kept."""


class PredictionError(LoadTestError):
    """A run does not show enough to predict from, or a prediction cannot be scored; the sentence says what to do."""


def exit_code_of(error: Exception) -> int:
    """Return the exit code of what an exception ends: 2 where the user can mend it, else 3, for it is loadtest's or a disk's fault."""
    if isinstance(error, OSError):
        return NOT_TO_BE_BELIEVED if error.errno in FULL else MISTAKE
    mendable = isinstance(error, LoadTestError) and not isinstance(error, StorageError | WorkerError)
    return MISTAKE if mendable else NOT_TO_BE_BELIEVED


@contextmanager
def os_error_as(kind: type[LoadTestError], sentence: str, hint: str = "") -> Iterator[None]:
    """Raise an OSError of the block as an error for the user: `sentence`, the system's reason, then `hint`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{sentence}: {error.strerror}{hint}.") from None
