"""What people write for streams in Locust: its own clients, lines as they come. Run by `scripts/bench peers`.

PEER holds the task as JSON: url, streams, requests, tokens, path, out, client (fast or requests).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from locust import FastHttpUser, HttpUser, events, task
from locust.exception import StopUser
from plain import Seen, Task, has_token

PEER = json.loads(os.environ["PEER"])
OUT, CLIENT = PEER.pop("out"), PEER.pop("client")
TASK, SEEN = Task(**PEER), Seen()
Base: Any = FastHttpUser if CLIENT == "fast" else HttpUser
numbers = iter(range(TASK.streams))
ended: list[int] = []


class Plain(Base):  # type: ignore[misc] # one of two classes, by PEER
    """A closed loop over one connection."""

    host = TASK.url

    @task
    def ask_all(self) -> None:
        number = next(numbers)
        for turn in range(TASK.requests):
            body = TASK.body(number * TASK.requests + turn)
            sent = time.perf_counter_ns()
            try:
                SEEN.add(sent, [time.perf_counter_ns() for line in self.lines(body) if has_token(line.rstrip())])
            except OSError:
                continue  # lost: missing from `ok`
        ended.append(number)
        if len(ended) == TASK.streams:
            self.environment.runner.quit()
        raise StopUser

    def lines(self, body: dict[str, Any]) -> Iterator[str]:
        if CLIENT == "fast":
            yield from self.client.iter_lines(TASK.path, method="POST", json=body)
            return
        for line in self.client.post(TASK.path, json=body, stream=True).iter_lines():
            yield line.decode()


@events.quitting.add_listener  # type: ignore[untyped-decorator] # Locust's carries no types
def give(**_: object) -> None:
    Path(OUT).write_text(json.dumps(vars(SEEN)))
