"""Which workers of a test have users, and which are lost: what its master knows of them."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from locust.runners import HEARTBEAT_LIVENESS, STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner

from loadtest.metrics import NS_PER_S
from loadtest.users.processes.messages import FINISH
from loadtest.users.processes.run import LocustRun
from loadtest.wire import now

GRACE_NS = 5_000_000_000  # time for a worker without users to complete its records
ON_STOP_NS = 60_000_000_000  # time for users beyond --stop-timeout, as Locust grants it: an on_stop may never return
SILENT = "it stopped answering"  # of a worker that may come back
GONE_NS = 500_000_000  # a worker that ends with the test may be gone this long before the end is known here

logger = logging.getLogger(__name__)


class WorkerWatch:
    def __init__(self, runner: MasterRunner, run: LocustRun) -> None:
        self._runner = runner
        self._run = run
        self.used: set[str] = set()  # ids of the workers that have had users in this test …
        self.ended: dict[str, bool] = {}  # … of those that ended it, with whether by a signal or sys.exit() …
        self.lost: dict[str, dict[str, Any]] = {}  # … and of those that are lost, with what run.json says of each
        self._refused: set[str] = set()  # of those that cannot record
        self.deserted = False  # no worker was left when the test ended
        # users of each worker by its last report; Locust's own count leaves out those that were killed and are in their on_stop
        self.running: dict[str, int] = {}
        self._heard: dict[str, int] = {}  # when each worker was last heard of, monotonic ns

    def index(self, client_id: str) -> int:
        """Return a worker's index, as Locust numbers them."""
        return int(self._runner.get_worker_index(client_id))  # type: ignore[no-untyped-call]

    def look(self) -> None:
        """Notice workers that are gone while their users were running, and those that come back."""
        # A terminal's Ctrl-C goes to workers too: Locust may take seconds to stop after it.
        if self._runner.state not in (STATE_SPAWNING, STATE_RUNNING) or self._run.interrupted:
            return
        for client in self._runner.clients.all:
            if client.heartbeat >= HEARTBEAT_LIVENESS:
                self._heard[client.id] = now()
            # It says how many users it has only every 3 s; Locust gives every worker some as soon as there are enough.
            begun = client.state in (STATE_SPAWNING, STATE_RUNNING)
            if client.user_count or (begun and self._runner.target_user_count >= len(self._runner.clients)):
                self.used.add(client.id)
            if client.state != STATE_MISSING:
                self.take_back(client.id)
        for client_id in self.used - self.lost.keys():
            known = self._runner.clients.get(client_id)
            if known is not None and known.state == STATE_MISSING:
                self.lose(client_id, SILENT)
            elif known is None and now() - self._heard.get(client_id, 0) > GONE_NS:
                self.lose(client_id, "it quit during the test")

    def others_record(self, refused: str) -> bool:
        """Note that a worker cannot record; return whether others do, or did."""
        self._refused.add(refused)
        return bool(self.used.union(client.id for client in self._runner.clients.all) - self._refused)

    def lose(self, client_id: str, why: str) -> None:
        """Take a worker for lost, and say so in the log and in run.json."""
        index = self.index(client_id)
        self.used.add(client_id)
        since = self._heard.get(client_id, self._run.clock.monotonic_ns)
        self.lost[client_id] = self._run.lose_worker(str(index), why, since)
        logger.error("worker %d was lost (%s): its users do not send as asked from here on", index, why)

    def take_back(self, client_id: str) -> None:
        """Note that a worker answers again where it was lost because it did not: it has recorded all the while."""
        if client_id in self.lost and self.lost[client_id]["why"] == SILENT:
            self.lost.pop(client_id)["back_ns"] = now() - self._run.clock.monotonic_ns
            logger.warning("worker %d is back: what its users sent meanwhile is recorded", self.index(client_id))

    def end(self) -> None:
        """Have every worker end the test and report; one that has had users and does not report is lost.

        A headless master tells its workers to quit and ends half a second later, whatever --stop-timeout grants them:
        without this wait, requests that end in the granted time would be on disk but in no table.
        """
        self._runner.send_message(FINISH, {"id": self._run.clock.wall_ns})
        until = now() + GRACE_NS
        last = now() + int(self._runner.environment.stop_timeout * NS_PER_S) + ON_STOP_NS
        clients, ended = self._runner.clients, self.ended
        while now() < until and (
            left := [one for one in clients.all if one.state != STATE_MISSING and one.id not in ended]
        ):
            if any(one.user_count or self.running.get(one.id) for one in left):
                until = min(now() + GRACE_NS, last)
            gevent.sleep(0.02)
        for client_id in self.used - self.ended.keys() - self.lost.keys():
            self.lose(client_id, SILENT if self.deserted else "it did not report its end")
        if self.deserted and self.used and self.used <= self.ended.keys():  # whoever ended the workers ended the test
            self._run.interrupted |= any(self.ended.values())
        elif self.deserted and not self._run.interrupted:
            self._run.failure = self._run.failure or "no worker was left."
