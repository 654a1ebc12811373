"""Load testing for Ollama and OpenAI-compatible model servers. docs/python.md shows how to use it from Python."""

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it for true; typing would be most of what importing this package costs

__all__ = ["LoadTestError", "Outcome", "Record", "Run", "Scenario", "__version__", "read_run", "run"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from loadtest.errors import LoadTestError
    from loadtest.library import Run, read_run, run
    from loadtest.records import Outcome, Record
    from loadtest.scenario import Scenario
else:
    _MODULES = {
        "LoadTestError": "errors",
        "Outcome": "records",
        "Record": "records",
        "Run": "library",
        "Scenario": "scenario",
        "read_run": "library",
        "run": "library",
    }

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used: `import loadtest` alone loads no other module of the package."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
