"""The user's mistakes: each is one clear sentence that says what to do, and exit code 2.

LoadTestError
├── ScenarioError     a scenario file or an option makes no sense
├── TargetError       the server cannot be reached, refuses us, or is no model server
├── RunFolderError    a folder holds a run already, or does not hold one
├── StorageError      a run's files cannot be written any more
├── WorkerError       every driver process of a run has died
└── PredictionError   a run does not say enough to predict from
"""


class LoadTestError(Exception):
    """Base of every error meant for the user; its text is one sentence, printed without a traceback."""


class ScenarioError(LoadTestError):
    """What was asked for makes no sense: an unknown key, an impossible level list, a missing prompt file."""


class TargetError(LoadTestError):
    """The server cannot be measured: unreachable, refusing, not a model server, or without the model asked for."""


class RunFolderError(LoadTestError):
    """A run folder is in the way (it holds a run already) or is not one."""


class StorageError(LoadTestError):
    """A run's files cannot be written any more (disk full, folder removed); every line they hold is whole."""


class WorkerError(LoadTestError):
    """Every driver process of a run has died; what they recorded is kept."""


class PredictionError(LoadTestError):
    """A run does not say enough to predict from; the sentence says what to measure."""
