"""Locust users of model servers: streaming figures that are right, in the web UI, headless and distributed.

    from locust import task
    from loadtest.users import OllamaUser

    class Chat(OllamaUser):
        @task
        def chat(self):
            self.client.chat(output_tokens=64)

Importing this connects it to Locust's events: options, records in a run folder, tables, gates.
"""

from __future__ import annotations

from typing import Any

from locust import events as _events
from locust.event import Events

from loadtest.users.answer import Answer, RequestFailedError
from loadtest.users.client import Client
from loadtest.users.open_loop import OpenLoopUser
from loadtest.users.processes import lifecycle
from loadtest.users.results import console, live_figures, web
from loadtest.users.user import ModelUser, OllamaUser, OpenAIUser

__all__ = ["Answer", "Client", "ModelUser", "OllamaUser", "OpenAIUser", "OpenLoopUser", "RequestFailedError", "connect"]

_connected: list[Any] = []


def connect(events: Events) -> None:
    """Connect to the events of your own Environment, before its `init` event is fired; calling it again does nothing.

    Needed only where Locust is used as a library: Locust's own events are connected when this package is imported.
    """
    if any(events is known for known in _connected):
        return
    _connected.append(events)
    for part in (lifecycle, live_figures, console, web):  # records first: the others use them
        part.listen_to(events)


connect(_events)
