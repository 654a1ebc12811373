"""Which workers of a test have users, and which are lost: what its master knows of them."""

from __future__ import annotations

import logging

from locust.runners import HEARTBEAT_LIVENESS, STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner

from loadtest.users.processes.run import LocustRun
from loadtest.wire import now

GONE_NS = 500_000_000  # a worker or user that ends with the test may be gone this long before the end is known here

logger = logging.getLogger(__name__)


class WorkerWatch:
    """Watches the workers of one test."""

    def __init__(self, runner: MasterRunner, run: LocustRun) -> None:
        self._runner = runner
        self._run = run
        self._used: set[str] = set()  # ids of the workers that have had users in this test …
        self._ended: set[str] = set()  # … of those that have ended it …
        self.lost: set[str] = set()  # … and of those that were lost
        self._heard: dict[str, int] = {}  # when each worker was last heard of, monotonic ns

    def index(self, client_id: str) -> int:
        """Return a worker's index, as Locust numbers them."""
        return int(self._runner.get_worker_index(client_id))  # type: ignore[no-untyped-call]

    def others_run(self, client_id: str) -> bool:
        """Whether workers besides this one have had users."""
        return bool(self._used - {client_id})

    def look(self) -> None:
        """Notice workers that are gone while their users were running."""
        if self._runner.state not in (STATE_SPAWNING, STATE_RUNNING):
            return
        for client in self._runner.clients.all:
            if client.heartbeat >= HEARTBEAT_LIVENESS:
                self._heard[client.id] = now()
            if client.user_count:
                self._used.add(client.id)
        for client_id in self._used - self.lost:
            known = self._runner.clients.get(client_id)
            if known is not None and known.state == STATE_MISSING:
                self.lose(client_id, "it stopped answering")
            elif known is None and now() - self._heard.get(client_id, 0) > GONE_NS:
                self.lose(client_id, "it quit during the test")

    def lose(self, client_id: str, why: str) -> None:
        """Take a worker for lost, and say so in the log and in run.json."""
        index = self.index(client_id)
        self._used.add(client_id)
        self.lost.add(client_id)
        self._run.lose_worker(str(index), why, self._heard.get(client_id, self._run.clock.monotonic_ns))
        logger.error("worker %d was lost (%s): its users' requests are missing from here on", index, why)

    def take_end(self, client_id: str) -> None:
        """Note that a worker has ended the test."""
        self._ended.add(client_id)

    def lose_silent(self) -> None:
        """Take for lost whichever worker has had users and did not say that it ended the test."""
        for client_id in self._used - self._ended - self.lost:
            self.lose(client_id, "it did not report its end")
