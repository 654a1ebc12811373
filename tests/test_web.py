"""The web UI of Locust with our tab and page: the routes, and the whole of it in a real browser."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent.event
import pytest
from made_runs import WALL, Made, closed_loop

from loadtest.records import Outcome, RunFolder

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.env import Environment
    from locust.web import WebUI

    from loadtest.users import siblings, web
    from loadtest.users.figures import TOTAL, Board
    from loadtest.users.options import OPTIONS

SCENARIOS = Path(__file__).parent.parent / "scenarios"
ZERO = WALL / 1e9
EVIL = "<img src=x onerror=\"window.evil = 1\">, 'quoted'"
FACTS: dict[str, Any] = {
    "target": {"url": "http://127.0.0.1:11434", "model": "made", "dialect": "ollama-chat"},
    "server": {"simulated": {"profile": "a100", "speed": 10.0}},
}
BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Locust from reading pytest's command line when it renders its start form."""
    monkeypatch.setattr(sys, "argv", ["locust"])


def board_of(*names: str) -> Board:
    board = Board(live=lambda: (3, 2))
    for name in names:
        for record in closed_loop(Made(), level=0, users=8, requests=120, start_ns=0).records:
            board.add(name, record, ZERO)
    return board


def web_ui_of(board: Board, facts: Callable[[], dict[str, Any]] = lambda: FACTS, **options: Any) -> WebUI:
    """A web UI that serves nothing: its routes are called directly."""
    environment = Environment()
    environment.create_local_runner()
    web_ui = environment.create_web_ui(delayed_start=True, **options)
    web.attach(web_ui, board, facts)
    return web_ui


def client_of(web_ui: WebUI) -> Any:
    assert web_ui.app is not None
    return web_ui.app.test_client()


@pytest.mark.parametrize("base", [None, "/tests/locust"])
def test_routes_stand_below_the_base_path_of_the_web_ui(base: str | None) -> None:
    board = board_of("chat")
    client = client_of(web_ui_of(board, web_base_path=base))
    prefix = base or ""
    page = client.get(f"{prefix}/loadtest")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    linked = re.findall(r'(?:src|href)="(\./[^"]+)"', page.text)
    index = client.get(f"{prefix}/").text
    linked += re.findall(r'(?:src|href)="(\./loadtest[^"]+)"', index)
    assert "./loadtest/static/tab.js" in linked
    for link in linked:  # relative to what stands right below the base path
        with client.get(f"{prefix}/{link.removeprefix('./')}") as answer:
            assert answer.status_code == 200, link
    said = client.get(f"{prefix}/loadtest/figures").json
    assert said["rows"] == board.rows()
    assert said["history"] == board.history
    if base:
        assert client.get("/loadtest/figures").status_code == 404


def test_figures_say_whom_they_are_about_and_that_it_is_simulated() -> None:
    facts: dict[str, Any] = {}
    client = client_of(web_ui_of(board_of("chat"), lambda: facts))
    before = client.get("/loadtest/figures").json
    assert (before["model"], before["simulated"], before["state"]) == (None, None, "ready")
    facts.update(FACTS)
    after = client.get("/loadtest/figures?history=0").json
    assert (after["model"], after["url"]) == ("made", "http://127.0.0.1:11434")
    assert after["simulated"] == "profile a100 at 10× speed"
    assert after["history"] == []
    facts["server"] = {"simulated": None}
    assert client.get("/loadtest/figures").json["simulated"] is None


def test_every_column_of_the_table_is_a_key_of_the_rows() -> None:
    said = client_of(web_ui_of(board_of("chat"))).get("/loadtest/figures").json
    keys = [key for _, columns in said["columns"] for _, key, _ in columns]
    assert {"requests", "failures", "ttft_p99", "itl_p99", "queue_wait_p95", "decoding", "waiting", "lag_p99"} <= {
        *keys
    }
    assert set(keys) <= set(said["rows"][-1])


def test_tab_and_download_join_what_others_added() -> None:
    environment = Environment()
    environment.create_local_runner()
    web_ui = environment.create_web_ui(delayed_start=True)
    web_ui.template_args["extended_tabs"] = [{"key": "theirs", "title": "Theirs"}]
    web.attach(web_ui, board_of("chat"), dict)
    assert [tab["key"] for tab in web_ui.template_args["extended_tabs"]] == ["theirs", "streams"]
    (link,) = web_ui.template_args["extended_csv_files"]
    answer = client_of(web_ui).get(link["href"].removeprefix("."))
    assert answer.mimetype == "text/csv"
    assert [row["name"] for row in csv.DictReader(answer.text.splitlines())] == ["chat", TOTAL]


def test_the_start_form_asks_for_our_options() -> None:
    asked = web_ui_of(board_of()).template_args["extra_options"]
    assert {*asked} == {option.key for option in OPTIONS}


def test_csv_is_the_one_that_a_headless_run_writes() -> None:
    board = board_of("chat", EVIL)
    assert client_of(web_ui_of(board)).get("/loadtest/streams.csv").text == siblings.csv_text(board.rows())


@pytest.mark.parametrize("path", ["/loadtest", "/loadtest/figures", "/loadtest/streams.csv"])
def test_web_login_guards_our_routes_as_it_guards_those_of_locust(path: str) -> None:
    web_ui = web_ui_of(board_of("chat"), web_login=True, web_base_path="/lt")
    assert web_ui.app is not None
    web_ui.app.secret_key = "for tests"

    class Somebody:
        is_authenticated = True

    web_ui.login_manager.user_loader(lambda _: Somebody())
    client = client_of(web_ui)
    for guarded in ("/lt/stats/requests", f"/lt{path}"):
        answer = client.get(guarded)
        assert answer.status_code == 302
        assert urlsplit(answer.headers["Location"]).path == "/lt/login"
    with client.session_transaction() as session:
        session["_user_id"] = "somebody"
    assert client.get(f"/lt{path}").status_code == 200


def test_a_test_that_is_being_settled_is_not_ready_to_start() -> None:
    web_ui = web_ui_of(board_of())
    events: Any = web_ui.environment.events
    settling, settled = gevent.event.Event(), gevent.event.Event()

    def settle(**_: Any) -> None:
        settling.set()
        settled.wait()

    events.test_start.add_listener(settle)
    client, runner = client_of(web_ui), web_ui.environment.runner

    def states() -> set[str]:
        shown = re.search(r"templateArgs = (.*)", client.get("/").text)
        assert shown is not None
        urls = ("/stats/requests", "/loadtest/figures")
        return {json.loads(shown[1])["state"], *(client.get(url).json["state"] for url in urls)}

    assert states() == {"ready"}
    assert runner is not None
    runner.start(1, 1)
    settling.wait()
    assert runner.state == "ready"  # which is what Locust says of it
    assert states() == {"spawning"}
    events.test_stop.add_listener(lambda **_: settling.clear())
    runner.quit()
    assert not settling.is_set()
    assert states() == {"stopped"}


@dataclass
class Watched:
    """A browser page, and everything on it that should not happen."""

    page: Any
    errors: list[str] = field(default_factory=list)
    abroad: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            self.abroad.append(request.url)

    def figure(self, key: str) -> str:
        """What the table says of all requests."""
        text: str = self.page.locator(f'tbody tr:last-child td[data-key="{key}"]').inner_text()
        return text

    def wait_for(self, key: str, condition: str) -> None:
        """Wait until the figure of all requests fulfils a JavaScript condition on `value`, a number."""
        self.page.bring_to_front()  # a page behind another draws no frames, and Chromium may slow it down
        cell = f"""document.querySelector('tbody tr:last-child td[data-key="{key}"]')"""
        self.page.wait_for_function(
            f"(() => {{ const value = Number({cell}?.textContent); return {condition}; }})()", polling=100
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: the machine's own, driven by playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("NO BROWSER: the web UI is not tested here; install chromium (apt-get install chromium).")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="NO PLAYWRIGHT: the web UI is not tested here; pip install playwright."
    )
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=BROWSER)
        yield started
        started.close()


@contextlib.contextmanager
def locust(locustfile: Path, *options: str, cwd: Path) -> Iterator[str]:
    """Run Locust with its web UI on a free port while inside; gives the port's URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(locustfile),
        "--web-host",
        "127.0.0.1",
        "--web-port",
        str(port),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "OLLAMA_"))}
    log = cwd / "locust.log"
    with log.open("w") as out, subprocess.Popen([*command, *options], cwd=cwd, env=environment, stderr=out) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
            print(log.read_text())  # shown where a test fails


def start(watched: Watched, url: str, **fields: str) -> None:
    """Fill in Locust's start form and send it."""
    page = watched.page
    page.goto(url)
    page.get_by_text("Custom parameters").click()
    for name, value in fields.items():
        page.locator(f"input[name={name}]").fill(value)
    page.get_by_role("button", name="Start", exact=True).click()


def test_a_run_in_a_real_browser(browser: Any, simulated_url: str, tmp_path: Path) -> None:
    with locust(SCENARIOS / "chat.py", "--web-base-path", "/lt", "--host", simulated_url, cwd=tmp_path) as url:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(20_000)
        ui, live = Watched(context.new_page()), Watched(context.new_page())
        start(ui, f"{url}/lt/", userCount="8", spawnRate="8", outputTokens="48", out="runs/seen")

        ui.page.get_by_role("tab", name="Streams").click()
        ui.wait_for("requests", "value > 0")
        assert "SIMULATED SERVER" in ui.page.locator(".simulated").inner_text()
        before = int(ui.figure("requests"))

        href = ui.page.get_by_role("link", name="Live charts").get_attribute("href")
        live.page.goto(href)
        live.wait_for("requests", f"value > {before}")
        drawn = "[...document.querySelectorAll('.chart')].map((chart) => chart.querySelector('.line, .stack')?.getAttribute('d'))"
        first = live.page.evaluate(drawn)
        live.page.wait_for_function(
            f"(first) => {drawn}.every((path, index) => path && path !== first[index])", arg=first, polling=100
        )
        assert "SIMULATED SERVER" in live.page.locator(".simulated").inner_text()
        live.page.screenshot(path=tmp_path / "light.png", full_page=True)
        live.page.get_by_role("button", name="Light / dark").click()
        live.page.locator("svg").first.hover(position={"x": 200, "y": 80})
        live.page.screenshot(path=tmp_path / "dark.png", full_page=True)
        ui.wait_for("requests", f"value > {before}")
        ui.wait_for("ttft_p50", "value > 0")
        ui.page.screenshot(path=tmp_path / "tab.png")

        ui.page.get_by_role("button", name="Stop").click()
        live.page.get_by_text("stopped, 0 users").wait_for()
        ui.wait_for("decoding", "value === 0")
        ui.wait_for("waiting", "value === 0")
        records = RunFolder.open(tmp_path / "runs/seen").records()
        measured = sum(not record.warmup and record.outcome is not Outcome.CANCELLED for record in records)
        for watched in (ui, live):  # what ended at the stop is counted, too
            watched.wait_for("requests", f"value === {measured}")
        ui.page.get_by_role("tab", name="Statistics").click()
        assert ui.page.locator(".loadtest-streams").count() == 0

        assert (ui.errors, live.errors) == ([], [])
        assert (ui.abroad, live.abroad) == ([], [])
    live.page.get_by_text("Locust does not answer; these are its last figures.").wait_for()
    context.close()
    assert (tmp_path / "runs/seen/run.json").is_file()


def test_names_of_requests_are_text_in_the_browser(browser: Any) -> None:
    page = browser.new_page()
    client = client_of(web_ui_of(board_of(EVIL)))

    def answer(route: Any) -> None:
        with client.get(urlsplit(route.request.url).path) as got:
            route.fulfill(status=got.status_code, headers=dict(got.headers), body=got.data)

    page.route("**/*", answer)
    page.goto("http://127.0.0.1:1/loadtest")
    page.locator("tbody tr").first.wait_for()
    assert page.locator("tbody tr").first.locator("th").inner_text() == EVIL
    assert page.locator("img").count() == 0
    assert page.evaluate("window.evil") is None
    page.close()
