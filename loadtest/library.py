"""loadtest as a library: `run` measures a server from a script or a notebook, `read_run` reads what a run left on disk."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.doubts import SUSPECT, VALID, VOID
from loadtest.errors import RunFolderError, ScenarioError
from loadtest.measure.interruption import Stoppable, Stopping, heeded_signals
from loadtest.measure.progress import Progress
from loadtest.scenario import Scenario, short_repr

if TYPE_CHECKING:
    import pandas as pd

    from loadtest.analyse.summary import Analysis

logger = logging.getLogger("loadtest")


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder, read. docs/python.md describes every column of the three tables."""

    path: Path
    _analysis: Analysis = field(repr=False)
    _failure: str | None = field(default=None, repr=False)  # why `run` could not keep all that it measured

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row for each request, in the order sent, warm-up and failed ones included."""
        from loadtest.analyse import dataframes

        return dataframes.requests(self._analysis.run)

    @cached_property
    def levels(self) -> pd.DataFrame:
        """A row for each level, with its headline figures and its verdict."""
        from loadtest.analyse import dataframes

        return dataframes.levels(self.summary)

    @cached_property
    def chunks(self) -> pd.DataFrame:
        """A row for each content event of each answer, in the order of `requests`."""
        from loadtest.analyse import dataframes

        return dataframes.chunks(self._analysis.run)

    @property
    def summary(self) -> dict[str, Any]:
        """Every figure, as `loadtest report` writes it to summary.json; it is worked out anew and not read from there."""
        return self._analysis.summary

    @property
    def state(self) -> str | None:
        """How the run ended: "done", "interrupted" or "failed"; "running" if it goes on or was killed, None if unknown."""
        state: str | None = self.summary["state"]
        return state

    @property
    def verdict(self) -> str:
        """Whether the figures can be believed: "valid", "suspect" or "void".

        It is the worst of the levels' verdicts and of how the run ended: a run that was interrupted or that lost records is
        suspect at best, and one that failed is void.
        """
        from loadtest.analyse.verdict.verdict import worst

        ended = VOID if self._failure else VALID
        return worst([self.summary["verdict"], ended, SUSPECT if self._analysis.run.lost else VALID])

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not "valid", a sentence or clause each; those about a level begin with its label."""
        # A run.json that could still be written says why the run failed.
        failure = [self._failure] if self._failure and self.state != "failed" else []
        levels = [f"{level['label']}: {reason}" for level in self.summary["levels"] for reason in level["reasons"]]
        return [*failure, *self.summary["trouble"], *levels]


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder; raise LoadTestError if it is none, or was written by a newer loadtest."""
    from loadtest.analyse.summary import analyse

    folder = _folder_named("path", path)
    return Run(folder, analyse(folder))


def _folder_named(name: str, path: Any) -> Path:
    """Return a folder as a script names it, ~ as the user's home; raise RunFolderError for what is no path."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise RunFolderError(f"{name} must be the path of a folder, not {short_repr(path)}.")
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user, or one without a home
        return Path(path)


def run(
    scenario: Scenario,
    out: str | os.PathLike[str] | None = None,
    *,
    on_progress: Callable[[Progress], object] | None = None,
) -> Run:
    """Measure a server, level by level, into the folder `out` (default: runs/<time>-<name>), and read that folder.

    It prints nothing: notes go to the logger "loadtest". `on_progress` is called several times a second, by the thread that
    measures, and must return at once. In a notebook, where an event loop runs already, a thread of its own measures.

    Everything that is wrong with the request is found before anything is measured, and raises LoadTestError. What happens
    later is said by the run: `state`, `verdict` and `reasons`. Ctrl-C ends the run and keeps every finished request.
    """
    if not isinstance(scenario, Scenario):
        raise ScenarioError(
            f"run takes a Scenario, not {short_repr(scenario)}; make one with Scenario(url=…, …), or of a file with Scenario.load(FILE)."
        )
    folder = None if out is None else _folder_named("out", out)
    here = threading.current_thread() is threading.main_thread()
    if here and not _loop_runs():
        return _measured(scenario, folder, on_progress, Stopping)
    outside = _Outside()
    with ThreadPoolExecutor(1, thread_name_prefix="loadtest") as pool, outside.stopped_by_ctrl_c():
        return pool.submit(_measured, scenario, folder, on_progress, outside.stopping).result()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _measured(
    scenario: Scenario,
    out: Path | None,
    on_progress: Callable[[Progress], object] | None,
    stopping: Callable[[Stoppable], Stopping],
) -> Run:
    """Measure on this thread, and read what that left."""
    from loadtest.analyse.summary import analyse
    from loadtest.asyncio_driver.run import measure

    finished = measure(
        scenario, out, on_progress=_called_until_it_raises(on_progress), say=logger.info, stopping=stopping
    )
    return Run(finished.folder, analyse(finished.folder), finished.failure)


def _called_until_it_raises(call: Callable[[Progress], object] | None) -> Callable[[Progress], None]:
    """Return what calls the user's function on each progress until that raises: the driver's own samples hang on the same tick."""

    def show(progress: Progress) -> None:
        nonlocal call
        if call is None:
            return
        try:
            call(progress)
        except Exception:
            call = None
            logger.exception("on_progress raised; it is not called again, and the run goes on")

    return show


class _Outside:
    """Lets the main thread stop the driver of another thread, which gets no signal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._begun: tuple[asyncio.AbstractEventLoop, Stopping] | None = None

    def stopping(self, driver: Stoppable) -> Stopping:
        """Return what ends `driver`; it ends at once if it was to be stopped before it began."""
        loop, stopping = asyncio.get_running_loop(), Stopping(driver)
        with self._lock:
            self._begun = loop, stopping
            for _ in range(self._asked):
                loop.call_soon(stopping.stop)
        return stopping

    @contextmanager
    def stopped_by_ctrl_c(self) -> Iterator[None]:
        """Within this context Ctrl-C stops the driver, where this is the main thread.

        A handler of its own is needed: that of `asyncio.run` cancels the coroutine, which waits here and would not hear of it.
        """
        if signal.SIGINT not in heeded_signals():
            yield
            return
        before = signal.signal(signal.SIGINT, lambda *_: self.stop())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

    def stop(self) -> None:
        with self._lock:
            self._asked += 1
            if self._begun is not None:
                loop, stopping = self._begun
                loop.call_soon_threadsafe(stopping.stop)
