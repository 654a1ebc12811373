"""The process that controls a Locust test (a master, or a process alone): begins it, tells workers, follows its levels."""

from __future__ import annotations

import atexit
import logging
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from gevent import GreenletExit
from locust import log
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_INIT, STATE_RUNNING, STATE_SPAWNING, STATE_STOPPED, MasterRunner, Runner

from loadtest.errors import MISTAKE, LoadTestError, exit_code_of
from loadtest.measure.descriptors import room_for
from loadtest.run_folder import RunFolder
from loadtest.users.options import Settings
from loadtest.users.processes import recording
from loadtest.users.processes.gevent_hub import kill_put_off
from loadtest.users.processes.levels import CurrentLevel
from loadtest.users.processes.messages import ENDED, LEVEL, RUN, TROUBLE, Trouble
from loadtest.users.processes.run import LocustRun, UserTargets, free_path, prepare
from loadtest.users.processes.user_target import hashes_of_files
from loadtest.users.processes.worker_watch import WorkerWatch
from loadtest.users.results import export
from loadtest.users.results.live_figures import board
from loadtest.wire import now
from loadtest.workloads.schedule import PlanShare

USERS_POLL_S = 0.05  # between two looks at the target user count; until a change is seen only warm-ups are sent
REPORTED_NS = 7_000_000_000  # the longest wait for reports that workers send every 3 s
OPEN_LOOP_LEAD_NS = 200_000_000  # from the last user's start to an open loop's schedule: all workers have heard by then

logger = logging.getLogger(__name__)


class Coordinator:
    """The listeners of the process that controls a test. `runner` is None under run_single_user."""

    def __init__(self, environment: Environment, runner: Runner | None) -> None:
        self._environment = environment
        self._runner = runner
        self._run: LocustRun | None = None  # while a test runs
        self._last: LocustRun | None = None
        self._barred: LoadTestError | None = None  # why no test can begin in this process
        self._ahead: UserTargets | Exception = {}  # tried out before the test began
        self._announced = 0  # the target user count that workers were told last
        self._steady = False  # whether they were told that all users are running
        self._shares: list[str] = []  # the workers that they were told share an open loop's schedule
        self._follower: gevent.Greenlet[[Runner, LocustRun], None] | None = None
        self._taken: set[Path] = set()
        self._files = hashes_of_files(environment.user_classes)  # now: they may be edited while this process runs
        self._watch: WorkerWatch | None = None  # of the latest test of a master
        # completes run.json and records of the latest test
        self._ending: gevent.Greenlet[[LocustRun], None] | None = None
        self._spawned: int | None = None  # since when Locust takes all users to run, ns; None once requests count
        self._reported: set[str] = set()  # the workers that have said since then how many users they have

    def listen(self) -> None:
        events: Any = self._environment.events
        events.test_start.add_listener(self._start)
        events.test_stopping.add_listener(self._stopping)
        events.test_stop.add_listener(self._stop)
        events.spawning_complete.add_listener(self._reached)
        events.quitting.add_listener(self._quitting)
        if isinstance(self._runner, MasterRunner):
            self._runner.register_message(ENDED, self._take_ended)
            self._runner.register_message(TROUBLE, self._take_trouble)
            events.worker_connect.add_listener(self._connected)
            events.worker_report.add_listener(self._take_report)
        if self._runner is not None:
            try:
                export.begin(self._environment)
            except LoadTestError as error:
                # The test is refused later; to end the process here would leave Locust's workers running.
                self._barred = error
                if not self._begins_by_itself:
                    logger.error(error)  # noqa: TRY400 - the user's mistake, not ours
        if self._begins_by_itself and self._barred is None:
            # Now, because Locust has not yet started the clock of --run-time: loading a model may take a minute.
            try:
                if asked := Settings.of(self._environment.parsed_options).out:
                    RunFolder.check_free(Path(asked))
                self._ahead = prepare(self._environment, logger.info, {})
            except Exception as error:  # noqa: BLE001 - raised again where the test begins; Locust would end with 1 here
                self._ahead = error

    def has_begun(self) -> bool:
        """Whether a test has begun; also true where tests are begun from the web UI."""
        return self._last is not None or not self._begins_by_itself

    def interrupt(self) -> None:
        """Note that the test ends early; called again, write so at once, because the process is about to go."""
        run = self._run or self._last
        if run is not None and run.interrupted:
            run.abandon()
        elif self._run is not None:
            self._run.interrupted = True

    @property
    def _begins_by_itself(self) -> bool:
        """Whether the test begins by itself, rather than from the web UI."""
        options = self._environment.parsed_options
        return self._runner is not None and options is not None and bool(options.headless or options.autostart)

    def _start(self, **_: Any) -> None:
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - Locust would go on without us, and end with 2
            self._refuse(error)

    def _begin(self) -> None:
        environment, runner = self._environment, self._runner
        if self._barred is not None:
            raise self._barred
        ahead, self._ahead = self._ahead, {}
        if isinstance(ahead, Exception):
            raise ahead
        settings = Settings.of(environment.parsed_options)
        path = None
        if runner is not None or settings.out:
            path = free_path(settings.out, environment.locustfile, self._taken)
            RunFolder.check_free(path)
        user_targets = self._prepare_targets(ahead)
        if not user_targets:
            return
        if runner is not None and not isinstance(runner, MasterRunner):
            opened = any(one.open_loop for one in user_targets.values())
            room_for(None if opened else runner.target_user_count)
        run = self._run = self._last = LocustRun(environment, user_targets, path)
        self._ending = None
        if path is not None:
            self._taken.add(path)
            logger.info("Run folder: %s", path)
        recording.note_run(run.folder, run.facts)
        self._announced, self._steady = runner.target_user_count if runner is not None else 1, False
        self._spawned = None
        run.levels.index(self._announced)
        if isinstance(runner, MasterRunner):
            self._watch = WorkerWatch(runner, run)
            self._tell(runner, run)
        else:
            recording.open_recorder(
                user_targets=run.user_targets,
                folder=run.folder,
                worker=0,
                users=self._announced,
                source="driver",
                current_level=self._current_level,
                runner=runner,
                on_trouble=None if runner is None else self._end_early,
            )
            atexit.register(self._end_at_exit)
        if runner is None:
            run.levels.reached(1)
            recording.current_test.share = recording.ScheduleShare(time.time_ns(), PlanShare())
        else:
            self._follower = gevent.spawn(self._follow, runner, run)
            self._follower.link_exception(log.greenlet_exception_logger(logger))  # type: ignore[no-untyped-call]

    def _prepare_targets(self, ahead: UserTargets) -> UserTargets:
        """Try the servers as `prepare` does; a start from the web UI can be stopped meanwhile, and its run time begins afterwards."""
        runner, web_ui = self._runner, self._environment.web_ui
        timed = web_ui is not None and web_ui._run_time_greenlet is not None  # noqa: SLF001
        if timed and web_ui is not None:
            web_ui._cancel_run_time_timer()  # type: ignore[no-untyped-call]  # noqa: SLF001 - begun with the request to start
        if runner is not None and runner.state == STATE_STOPPED:  # in which Locust's stop() does nothing
            runner.update_state(STATE_INIT)
        user_targets = prepare(self._environment, logger.info, ahead)
        if timed and web_ui is not None and self._environment.parsed_options is not None:
            seconds = self._environment.parsed_options.run_time
            web_ui._run_time_greenlet = gevent.spawn_later(seconds, web_ui._stop_runners)  # noqa: SLF001
        return user_targets

    def _end_early(self, kind: Trouble, why: str) -> None:
        """End the test; for a mistake of its own code once, because all users make it."""
        run, runner = self._run, self._runner
        if run is None or runner is None:
            return
        if kind == Trouble.MISUSE:
            if run.failure is not None:
                return
            recording.current_test.refusal = f"{why}."
            if self._begins_by_itself:
                recording.current_test.code = MISTAKE
        logger.error("%s; the test ends here", why)
        if kind == Trouble.HOPELESS:
            run.levels.give_up(why)
        else:
            run.failure = run.failure or f"{why}."
        gevent.spawn(runner.quit if self._environment.web_ui is None else runner.stop)

    def _take_trouble(self, msg: Message, **_: Any) -> None:
        kind, why, watch = msg.data["kind"], msg.data["why"], self._watch
        if watch is None or self._run is None:
            return
        worker = f"worker {watch.index(msg.node_id)}"
        if kind != Trouble.REFUSED:
            self._end_early(kind, why if kind == Trouble.MISUSE else f"{worker}: {why}")
        elif watch.others_record(msg.node_id):
            watch.lose(msg.node_id, f"it cannot record: {why.rstrip('.')}")
        else:
            recording.current_test.code = msg.data["code"]
            self._end_early(Trouble.BROKEN, f"{worker} cannot record: {why.rstrip('.')}")

    def _refuse(self, error: Exception) -> None:
        """Say why the test cannot begin, and end it; end the process too, unless there is a web UI to try again."""
        code, sentence = exit_code_of(error), recording.why_not(error)
        logger.error(sentence)
        recording.current_test.refusal = sentence
        runner = self._runner
        if self._run is not None:
            self._run.failure = sentence
        if runner is None:
            raise SystemExit(code)
        if self._begins_by_itself and self._last is self._run:  # else an earlier test of this process was measured
            recording.current_test.code = code
        gevent.spawn(runner.quit if self._environment.web_ui is None else runner.stop)
        raise GreenletExit  # stops later listeners and the start of users; Locust logs no traceback for it

    def _current_level(self) -> CurrentLevel:
        runner, run = self._runner, self._run
        if run is None or runner is None:
            return CurrentLevel(0, steady=runner is None)
        users = runner.target_user_count
        return CurrentLevel(run.levels.index(users), steady=users > 0 and runner.state == STATE_RUNNING)

    def _follow(self, runner: Runner, run: LocustRun) -> None:
        """Notice when another number of users is asked for."""
        while self._run is run:  # a killed greenlet may run once more
            if runner.target_user_count != self._announced:
                self._announce(runner, run, steady=False)
            elif self._spawned is not None and runner.state == STATE_RUNNING:  # Locust does not spawn anew
                self._begin_level(runner, run)
            elif self._steady and self._at_work() != self._shares:  # a worker reported its users late
                self._announce(runner, run, steady=True)
            if self._watch is not None:
                self._watch.look()
            gevent.sleep(USERS_POLL_S)

    def _reached(self, **_: Any) -> None:
        self._spawned, self._reported = now(), set()
        if self._run is not None and self._runner is not None:
            self._begin_level(self._runner, self._run)

    def _begin_level(self, runner: Runner, run: LocustRun) -> None:
        """Have requests count from now on, if all users run; Locust waits for workers that start theirs late for one second alone.

        Users that end by themselves may do so before they were counted. So those missing are not waited for once every worker
        has started its own and has reported how many are left.
        """
        if isinstance(runner, MasterRunner) and runner.user_count != runner.target_user_count:
            late = any(client.state in (STATE_INIT, STATE_SPAWNING) for client in runner.clients.all)
            unheard = {client.id for client in runner.clients.all if client.state == STATE_RUNNING} - self._reported
            if late or (unheard and now() - (self._spawned or now()) <= REPORTED_NS):
                return
        self._spawned = None
        running: dict[str, int] = runner.target_user_classes_count
        ours, by_schedule = (
            sum(running.get(name, 0) for name in names) for names in (run.user_targets, run.by_schedule)
        )
        run.levels.reached(runner.target_user_count, ours, by_schedule)
        self._announce(runner, run, steady=runner.target_user_count > 0)

    def _announce(self, runner: Runner, run: LocustRun, *, steady: bool) -> None:
        """Tell every process with users the current level and its own share of an open loop's schedule."""
        self._announced, self._steady, self._shares = runner.target_user_count, steady, self._at_work()
        start = time.time_ns() + OPEN_LOOP_LEAD_NS
        if not isinstance(runner, MasterRunner):
            if steady:
                recording.current_test.share = recording.ScheduleShare(start, PlanShare())
            return
        self._tell(runner, run)
        for client in runner.clients.all:
            share = [self._shares.index(client.id), len(self._shares)] if client.id in self._shares else None
            message = {
                "id": run.clock.wall_ns,
                "level": run.levels.index(self._announced),
                "steady": steady,
                "start_ns": start,
                "share": share,
            }
            runner.send_message(LEVEL, message, client.id)

    def _at_work(self) -> list[str]:
        """Return the workers that have users, in the order of their shares."""
        if not isinstance(self._runner, MasterRunner):
            return []
        return sorted(client.id for client in self._runner.clients.all if client.user_count)

    def _connected(self, client_id: str, **_: Any) -> None:
        if self._run is not None and isinstance(self._runner, MasterRunner):
            self._tell(self._runner, self._run, client_id)

    def _tell(self, runner: MasterRunner, run: LocustRun, client_id: str | None = None) -> None:
        """Tell workers, or one of them, what is measured and where records go, before Locust asks them for users.

        The message travels among the options that Locust sends with every request for users, because a worker that joins
        a running test gets those before any message of ours. Without options (Locust as a library) it is sent directly.
        """
        options = self._environment.parsed_options
        if options is None:
            runner.send_message(RUN, self._run_message(runner, run), client_id)
        else:
            setattr(options, RUN, self._run_message(runner, run))

    def _take_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        self._reported.add(client_id)
        if self._watch is not None:
            self._watch.running[client_id] = data["user_count"]

    def _take_ended(self, msg: Message, **_: Any) -> None:
        report = msg.data
        board.merge(report["figures"], msg.node_id)
        log.unhandled_greenlet_exception |= report.get("broken", False)
        if self._last is None or self._watch is None or report["id"] != self._last.clock.wall_ns:
            return
        if failure := report.get("failure"):
            self._last.failure = f"worker {self._watch.index(msg.node_id)}: {failure}"
        self._watch.ended[msg.node_id] = report.get("interrupted", False)
        self._watch.take_back(msg.node_id)
        self._last.add_seen(
            {(level, key, value) for level, key, value in report.get("seen", ())}, report.get("clock_steps", 0)
        )

    def _quitting(self, **_: Any) -> None:
        if self._ending is not None:  # by the web UI's stop, a moment ago
            self._ending.join()
        if self._run is None:
            return
        self._run.interrupted = True  # by SIGTERM
        if self._runner is not None and not isinstance(self._runner, MasterRunner):
            self._runner.stop()  # now, so that later listeners of this event see all records; a master stops by itself

    def _end_at_exit(self) -> None:
        """End the test of run_single_user, for which Locust fires no event, or one that sys.exit() in a task broke off."""
        if self._run is not None and self._runner is not None:
            self._run.interrupted = True
            self._runner.stop()
        elif self._run is not None:
            self._run.interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
            self._stop()

    def _stopping(self, **_: Any) -> None:
        # Locust asks workers to stop only after this, and forgets those that have.
        if self._watch is not None and self._ending is None and isinstance(self._runner, MasterRunner):
            self._watch.deserted = not self._runner.worker_count

    def _stop(self, **_: Any) -> None:
        """End the test: once, whoever asks first, and in a greenlet of its own, because Locust may kill one that waits for it."""
        if self._run is not None and self._ending is None:
            self._ending = gevent.spawn(self._end, self._run)
        if self._ending is not None:
            with kill_put_off():
                self._ending.get()

    def _end(self, run: LocustRun) -> None:
        if self._follower is not None:
            self._follower.kill(block=False)
            self._follower = None
        if self._watch is not None:
            self._watch.end()
        self._run = None
        try:
            if closed := recording.close_recorder():
                run.failure = closed.ledger.failure or run.failure
                run.add_seen(closed.seen, len(closed.heartbeat.wall.steps))
            run.end()
        finally:
            run.abandon()  # where that failed: the web UI waits while the state is `running`
        if self._watch is not None and self._watch.deserted and self._environment.web_ui is None:
            assert self._runner is not None  # which the watch is of
            gevent.spawn(self._runner.quit)  # Locust would wait for the end of --run-time

    def _run_message(self, runner: MasterRunner, run: LocustRun) -> dict[str, Any]:
        return {
            "id": run.clock.wall_ns,
            "folder": str(run.folder.path) if run.folder is not None else None,
            "user_targets": {name: one.to_json() for name, one in run.user_targets.items()},
            "files": self._files,
            "level": run.levels.index(runner.target_user_count),
            "users": -(-runner.target_user_count // max(runner.worker_count, 1)),
        }
