"""Load testing for Ollama and OpenAI-compatible model servers. docs/python.md shows how to use it from Python."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loadtest.errors import LoadTestError
    from loadtest.library import Run, read_run, run
    from loadtest.records import Outcome, Record
    from loadtest.scenario import Scenario

__all__ = ["LoadTestError", "Outcome", "Record", "Run", "Scenario", "__version__", "read_run", "run"]
__version__ = "0.1.0"

_HOMES = {
    "LoadTestError": "loadtest.errors",
    "Outcome": "loadtest.records",
    "Record": "loadtest.records",
    "Run": "loadtest.library",
    "Scenario": "loadtest.scenario",
    "read_run": "loadtest.library",
    "run": "loadtest.library",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import loadtest` alone loads no other module of the package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
