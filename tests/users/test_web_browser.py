"""The web UI in a real browser: a run started, watched, stopped; nothing asked for elsewhere, no error on any page."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import report_pages as pages
from support.made_runs import Made, make
from support.made_web import EVIL, board_of, client_of, web_ui_of
from support.places import SCENARIOS

from loadtest.analyse.summary import analyse
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder

BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
        self.until(f"(() => {{ const value = Number({cell}?.textContent); return {condition}; }})()")

    def until(self, expression: str, arg: Any = None, *, limit: float = 20.0) -> None:
        """Wait until a JavaScript expression is true; from here, for the page's own policy forbids to poll inside it."""
        end = time.monotonic() + limit
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end, f"never true: {expression}"
            self.page.wait_for_timeout(100)


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def locust(locustfile: Path, *options: str, cwd: Path) -> Iterator[str]:
    """Run Locust with its web UI on a free port while inside; gives the port's URL."""
    port = free_port()
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
    watched.page.goto(url)
    submit(watched.page, **fields)


def submit(page: Any, **fields: str) -> None:
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
        live.until(f"(first) => {drawn}.every((path, index) => path && path !== first[index])", first)
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


LOGIN = """
from flask import redirect
from flask_login import UserMixin, login_user
from locust import constant, events, task
from loadtest.users import OllamaUser

class Chat(OllamaUser):
    wait_time = constant(0)
    input_tokens, output_tokens = 16, 40

    @task
    def short(self):
        self.client.chat(name="short")

    @task
    def long(self):
        self.client.chat(name="long", output_tokens=120)

class Somebody(UserMixin):
    id = "somebody"

@events.init.add_listener
def enter(environment, **_):
    if environment.web_ui:
        environment.web_ui.app.secret_key = "for tests"
        environment.web_ui.login_manager.user_loader(lambda _: Somebody())
        environment.web_ui.app.add_url_rule("/enter", view_func=lambda: (login_user(Somebody()), redirect("/lt/"))[1])
"""


def test_two_processes_behind_a_login_in_a_real_browser(browser: Any, simulated_url: str, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(LOGIN)
    master = str(free_port())  # else two such tests at once meet at Locust's own
    processes = ("--processes", "2", "--master-bind-port", master, "--master-port", master)
    options = ("--web-base-path", "/lt", "--web-login", "--host", simulated_url)
    with locust(tmp_path / "locustfile.py", *processes, *options, cwd=tmp_path) as url:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(20_000)
        ui, live = Watched(context.new_page()), Watched(context.new_page())
        live.page.goto(f"{url}/lt/loadtest")
        assert urlsplit(live.page.url).path == "/lt/login"
        ui.page.goto(f"{url}/enter")

        start(ui, f"{url}/lt/", userCount="8", spawnRate="8", model="none-such")
        ui.page.get_by_role("tab", name="Streams").click()
        sentence = ui.page.locator(".refused").inner_text()
        assert sentence.startswith("NOT STARTED")
        assert "has no model 'none-such'" in sentence
        live.page.goto(f"{url}/lt/loadtest")
        assert live.page.locator(".refused").inner_text() == sentence

        ui.page.bring_to_front()  # behind another, a page that moves is never still enough to be clicked
        ui.page.get_by_role("button", name="New").click()
        submit(ui.page, userCount="8", spawnRate="8", model="", out="runs/two")
        ui.page.get_by_role("tab", name="Streams").click()
        for watched in (ui, live):
            watched.wait_for("requests", "value > 0")
            watched.wait_for("decoding", "value > 0")
            assert watched.page.locator(".refused").count() == 0
        table = "() => [...document.querySelectorAll('tbody tr')].map((row) => [row.cells[0].textContent, ...['decoding', 'waiting'].map((key) => Number(row.querySelector(`[data-key=${key}]`).textContent))])"
        long, short, total = ui.page.evaluate(table)
        assert [long[0], short[0], total[0]] == ["long", "short", "Aggregated"]
        assert [long[1] + short[1], long[2] + short[2]] == total[1:]
        assert 0 < sum(total[1:]) <= 8
        live.page.screenshot(path=tmp_path / "live.png", full_page=True)
        ui.page.bring_to_front()
        ui.page.get_by_role("button", name="Stop").click()
        live.page.get_by_text("stopped, 0 users").wait_for()
        live.wait_for("decoding", "value === 0")
        records = list(RunFolder.open(tmp_path / "runs/two").records())
        measured = sum(not record.warmup and record.outcome is not Outcome.CANCELLED for record in records)
        for watched in (ui, live):
            watched.wait_for("requests", f"value === {measured}")
        assert len(list((tmp_path / "runs/two").glob("requests-*.jsonl"))) == 2
        assert (ui.errors, live.errors) == ([], [])
        assert (ui.abroad, live.abroad) == ([], [])
    context.close()


def test_names_of_requests_are_text_in_the_browser(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["locust"])  # Locust reads it when it renders its start form
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


def test_a_report_is_no_wider_than_its_page_on_paper_and_on_a_phone(browser: Any, tmp_path: Path) -> None:
    make(tmp_path / "run", Made(gap_ms=400, prefill_ms=40_000), users=(1, 8), each=20)
    (tmp_path / "report.html").write_text(pages.html(analyse(tmp_path / "run"), []), encoding="utf-8")
    for width, media in ((720, "print"), (390, "screen")):  # CSS pixels between the margins of A4; of a phone
        page = browser.new_page(viewport={"width": width, "height": 1000})
        page.emulate_media(media=media)
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.close()
