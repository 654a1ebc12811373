"""Web UIs of Locust that serve nothing, over figures of made-up records: their routes are called directly."""

from __future__ import annotations

from typing import Any

import pytest

from support.made_runs import WALL, Made, closed_loop

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.env import Environment
    from locust.web import WebUI

    from loadtest.users.processes.recording import CurrentTest
    from loadtest.users.results import web
    from loadtest.users.results.live_figures import Board

ZERO = WALL / 1e9
EVIL = "<img src=x onerror=\"window.evil = 1\">, 'quoted'"
FACTS: dict[str, Any] = {
    "target": {"url": "http://127.0.0.1:11434", "model": "made", "dialect": "ollama-chat"},
    "server": {"simulated": {"profile": "a100", "speed": 10.0}},
}


def board_of(*names: str) -> Board:
    board = Board(live=lambda: {"chat": (3, 1), "late": (0, 1)})
    for name in names:
        for record in closed_loop(Made(), level=0, users=8, requests=120, start_ns=0).records:
            board.add(name, record, ZERO)
    return board


def web_ui_of(board: Board, test: CurrentTest | None = None, **options: Any) -> WebUI:
    """A web UI that serves nothing: its routes are called directly."""
    environment = Environment()
    environment.create_local_runner()
    web_ui = environment.create_web_ui(delayed_start=True, **options)
    web.attach(web_ui, board, test or CurrentTest(facts=FACTS))
    return web_ui


def client_of(web_ui: WebUI) -> Any:
    assert web_ui.app is not None
    return web_ui.app.test_client()
