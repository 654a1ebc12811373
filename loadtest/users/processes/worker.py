"""A Locust worker: its master tells it what is measured, where records go and which level it is."""

from __future__ import annotations

import atexit
import functools
import logging
from pathlib import Path
from typing import Any

import gevent
import zmq.green as zmq
from gevent import GreenletExit
from locust import argument_parser, log
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_CLEANUP, STATE_RUNNING, WorkerRunner
from zmq.utils.monitor import recv_monitor_message

from loadtest.errors import NOT_TO_BE_BELIEVED, RunFolderError, ScenarioError, TargetError, exit_code_of, os_error_as
from loadtest.run_folder import RunFolder
from loadtest.users.processes import recording
from loadtest.users.processes.levels import CurrentLevel
from loadtest.users.processes.messages import ENDED, FINISH, LEVEL, RUN, TROUBLE, Trouble
from loadtest.users.processes.user_target import UserTarget, hashes_of_files
from loadtest.users.results.live_figures import board
from loadtest.wire import now
from loadtest.workloads.schedule import PlanShare

ORPHAN_S = 10  # within it the master may come back; later its users would load the server for nobody
POLL_S = 0.5  # between two looks at the connection to the master
STOPPING_POLL_S = 0.02

logger = logging.getLogger(__name__)


class LocustWorker:
    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._files = hashes_of_files(environment.user_classes)  # now: they may be edited while this process runs
        self._told: dict[str, Any] | None = None
        self._ends: dict[int, gevent.Greenlet[[int], None]] = {}  # what completes the records of each test, by its id
        self._level = 0, CurrentLevel(0, steady=False)  # run and level in the master's last message
        self._interrupted = False  # by a signal, or sys.exit() in a task
        self._spawned: float = 0.0  # timestamp of the latest spawn message when that message came

    def listen(self) -> None:
        # Locust makes all of its options anew for each option of each spawn message: a second in which a worker reads nothing.
        argument_parser.default_args_dict = functools.cache(argument_parser.default_args_dict)
        self._runner.register_message(RUN, self._take_run)
        self._runner.register_message(LEVEL, self._take_level)
        self._runner.register_message(FINISH, self._finish)
        events: Any = self._environment.events
        events.test_start.add_listener(self._start)
        events.test_stop.add_listener(self._stop)
        events.quitting.add_listener(self._quitting)
        atexit.register(self._broken_off)
        gevent.spawn(self._watch_master)

    def interrupt(self) -> None:
        """Note that this worker is ended, rather than that its users end it."""
        self._interrupted = True

    def _take_run(self, msg: Message, **_: Any) -> None:
        self._told = msg.data

    def _take_level(self, msg: Message, **_: Any) -> None:
        data = msg.data
        self._level = data["id"], CurrentLevel(data["level"], steady=data["steady"])
        self._spawned = self._runner.last_received_spawn_timestamp
        if data["steady"] and data["share"] is not None:
            recording.current_test.share = recording.ScheduleShare(data["start_ns"], PlanShare(*data["share"]))

    def _current_level(self) -> CurrentLevel:
        """Return the current level; a spawn message after the master's last message, or a stop, means that users are changing."""
        assert self._told is not None
        run, current_level = self._level
        if run != self._told["id"]:
            return CurrentLevel(self._told["level"], steady=False)
        changing = self._runner.last_received_spawn_timestamp != self._spawned or self._runner.state != STATE_RUNNING
        return CurrentLevel(current_level.level, steady=current_level.steady and not changing)

    def _start(self, **_: Any) -> None:
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - Locust would go on without us
            why, code = recording.why_not(error), exit_code_of(error)
            logger.error("this worker cannot record: %s", why)  # noqa: TRY400 - the traceback of ours is logged
            self._runner.send_message(TROUBLE, {"kind": Trouble.REFUSED, "why": why, "code": code})
            recording.current_test.code = code
            gevent.spawn(self._runner.quit)
            raise GreenletExit from None

    def _quitting(self, **_: Any) -> None:
        """End the test before Locust tells the master that this worker is gone, because it would count as lost."""
        self._stop_users()
        self._stop()

    def _stop_users(self) -> None:
        """Stop all users, in what --stop-timeout grants them. Where Locust is at it, wait: it would kill those in their on_stop."""
        while self._runner.state == STATE_CLEANUP:
            gevent.sleep(STOPPING_POLL_S)
        self._runner.stop()

    def _broken_off(self) -> None:
        """End a test that sys.exit() in a task has broken off."""
        if recording.current_test.recorder is not None:
            self.interrupt()
            self._runner.stop()

    def _watch_master(self) -> None:
        """End this worker when its connection to the master stays lost, as that of a master that was killed.

        Locust itself goes by silence, and a master that is only busy may be silent for long: it waits for 60 s.
        """
        client: Any = None
        lost: int | None = None
        while lost is None or now() - lost < ORPHAN_S * 1e9:
            if client is not self._runner.client:  # Locust makes another where sending fails
                client = self._runner.client
                monitor = client.socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
            gevent.sleep(POLL_S)
            while monitor.poll(0):
                gone = recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
                lost = now() if gone else None
        logger.error("the connection to the master was lost %d s ago: this worker ends", ORPHAN_S)
        recording.current_test.code = NOT_TO_BE_BELIEVED
        self._runner.quit()

    def _begin(self) -> None:
        self._told = getattr(self._environment.parsed_options, RUN, None) or self._told
        if self._told is None:
            raise TargetError(
                "the master did not say what to measure; give it the same locustfile and version of loadtest."
            )
        if self._told["id"] in self._ends:  # a master that lost sight of its workers may go on asking for users
            logger.warning("the test has ended: no user starts again")
            return
        for name in self._told["user_targets"].keys() - self._environment.user_classes_by_name.keys():
            raise ScenarioError(
                f"user class {name} is missing here; give every worker the master's locustfile and classes."
            )
        for name, known in self._told["files"].items():
            if name in self._told["user_targets"] and self._files.get(name, known) != known:
                raise ScenarioError(
                    f"the file of user class {name} is not the master's; give every worker the master's locustfile."
                )
        by_scenario: dict[Any, UserTarget] = {}
        user_targets = {}
        for name, row in self._told["user_targets"].items():
            one = UserTarget.from_json(row)
            user_targets[name] = by_scenario.setdefault(one.scenario, one)
        index = max(self._runner.worker_index, 0)
        recording.open_recorder(
            user_targets=user_targets,
            folder=_records_folder(self._told["folder"]),
            worker=index,
            users=self._told["users"],
            source=f"driver-{index}",
            current_level=self._current_level,
            runner=self._runner,
            on_trouble=lambda kind, why: self._runner.send_message(TROUBLE, {"kind": kind, "why": why}),
        )

    def _finish(self, msg: Message, **_: Any) -> None:
        self._stop_users()
        self._end(msg.data["id"])

    def _stop(self, **_: Any) -> None:
        if self._told is not None:
            self._end(self._told["id"])

    def _end(self, test: int) -> None:
        """Complete the records of a test, and tell the master that this worker's part of it is over.

        That is done once, whoever asks first, and in a greenlet of its own, because Locust may kill one that waits for it.
        """
        if test not in self._ends:
            self._ends[test] = gevent.spawn(self._complete, test)
        self._ends[test].get()

    def _complete(self, test: int) -> None:
        known: dict[str, Any] = {"interrupted": self._interrupted}
        if (closed := recording.close_recorder()) is not None:
            steps, failure = len(closed.heartbeat.wall.steps), closed.ledger.failure
            known |= {"seen": list(closed.seen), "clock_steps": steps, "failure": failure}
        broken = log.unhandled_greenlet_exception
        # Before the end: a master that has heard of that may be gone half a second later, and Locust drops what comes after "quit".
        self._runner._send_stats()  # noqa: SLF001
        self._runner.send_message(ENDED, {"id": test, "figures": board.take_delta(), "broken": broken, **known})


def _records_folder(told: str | None) -> RunFolder | None:
    """Return the master's folder; on another host, where it cannot be made, the folder of its name in runs/ here."""
    if told is None:
        return None
    path = Path(told)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = Path("runs") / path.name
        logger.warning("the master's run folder cannot be made here: records go to %s, copy them to it", path)
        with os_error_as(RunFolderError, f"cannot make {path}"):
            path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    recording.note_run(folder, {})
    return folder
