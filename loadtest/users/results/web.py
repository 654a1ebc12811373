"""The live figures in Locust's web UI: a tab "Streams", and a page of live charts at /loadtest.

Locust 2.47 draws tabs that a test adds (`extended_tabs`), but refreshes their tables only while a test runs: requests that
end when it stops would be missing. So we fill the tab ourselves, like the page; both read /loadtest/figures. One answer
takes under 1 ms (10 names, 15 minutes of history), so a process that also runs users can be watched.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, before_render_template, g, request
from locust.event import Events
from locust.runners import STATE_INIT, STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, STATE_STOPPED
from locust.web import WebUI

from loadtest.metrics import FORMULAS
from loadtest.run_folder import RunFolder
from loadtest.urls import without_secrets
from loadtest.users.options import text_again
from loadtest.users.processes import recording
from loadtest.users.processes.recording import CurrentTest
from loadtest.users.processes.run import withhold_passwords
from loadtest.users.results import locust_files, tables
from loadtest.users.results.live_figures import SMOOTHED_S, Board, board

TAB = {"key": "streams", "title": "Streams"}
STATIC = Path(__file__).parent / "static"
SCRIPT = b'<script type="module" src="./loadtest/static/tab.js"></script>'
# The page loads nothing from elsewhere, and no request's name can make it do so.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'"

logger = logging.getLogger(__name__)


def listen_to(events: Events) -> None:
    """Extend the web UI of a process that has one. To be called once."""

    def extend(web_ui: WebUI | None, **_: Any) -> None:
        if web_ui is not None:
            attach(web_ui, board, recording.current_test)

    hooks: Any = events  # untyped in Locust
    hooks.init.add_listener(extend)


def attach(web_ui: WebUI, shown: Board, test: CurrentTest) -> None:
    """Add the tab and the routes /loadtest, /loadtest/figures and /loadtest/streams.csv to a web UI.

    The routes are below --web-base-path and behind --web-login, like Locust's own. Locust's report, shown or downloaded,
    gets the same section as the file of --html.
    """
    app = web_ui.app
    assert app is not None
    app.register_blueprint(_routes(app, web_ui, shown, test))
    app.after_request(functools.partial(_amended, web_ui, shown, test))

    @app.before_request
    def before_the_form_is_read() -> None:
        if request.endpoint == "locust.swarm":
            g.host = web_ui.environment.host
            text_again(web_ui.environment.parsed_options)

    def begin(_: Flask, context: dict[str, Any], **__: Any) -> None:
        if "template_args" in context:
            context["template_args"] = {**context["template_args"], "state": test_state(web_ui, test)}

    before_render_template.connect(begin, app, weak=False)
    arguments: dict[str, Any] = web_ui.template_args
    arguments["extended_tabs"] = [*arguments.get("extended_tabs", ()), TAB]
    download = {"href": "./loadtest/streams.csv", "title": "Download streams CSV"}
    arguments["extended_csv_files"] = [*arguments.get("extended_csv_files", ()), download]


def _routes(app: Flask, web_ui: WebUI, shown: Board, test: CurrentTest) -> Blueprint:
    """Return our pages, below the same prefix and behind the same login as Locust's."""
    routes = Blueprint(
        "loadtest",
        __name__,
        url_prefix=app.blueprints["locust"].url_prefix,
        static_folder=STATIC,
        static_url_path="/loadtest/static",
    )

    @routes.route("/loadtest")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def page() -> Response:
        answer = Response((STATIC / "live.html").read_bytes(), mimetype="text/html")
        answer.headers["Content-Security-Policy"] = POLICY
        return answer

    @routes.route("/loadtest/figures")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def figures() -> Response:
        body = snapshot(shown, test, web_ui, history=request.args.get("history") != "0")
        return _fresh(Response(orjson.dumps(body), mimetype="application/json"))

    @routes.route("/loadtest/streams.csv")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]
    def csv() -> Response:
        answer = Response(locust_files.csv_text(shown.rows()), mimetype="text/csv")
        answer.headers["Content-Disposition"] = "attachment; filename=streams.csv"
        return _fresh(answer)

    return routes


def _amended(web_ui: WebUI, shown: Board, test: CurrentTest, answer: Response) -> Response:
    """Return an answer of Locust's with our script and our section in it, and the state corrected."""
    if answer.status_code != 200:
        return answer
    if request.endpoint == "locust.index":
        answer.set_data(answer.get_data().replace(b"</body>", SCRIPT + b"</body>"))
    elif request.endpoint == "locust.stats_report" and shown.generation is not None:
        rows, mark = shown.rows(), tables.simulated_profile(test.facts)
        # To draw keeps the process from all else for seconds.
        idle = test_state(web_ui, test) in (STATE_INIT, STATE_STOPPED)
        charts = _charts(test.folder.path, repr(rows)) if idle and test.folder is not None else []
        section = locust_files.section(rows, charts, mark)
        answer.set_data(locust_files.page_with(answer.get_data(as_text=True), section))
    elif request.endpoint == "locust.swarm":  # before the test is started or changed with what the form said
        runner = web_ui.environment.runner
        running = runner is not None and runner.state in (STATE_SPAWNING, STATE_RUNNING)
        if running and (web_ui.environment.host or None) != (g.host or None):
            logger.warning("the test goes on with the host that it began with; to measure another one, stop it first")
            web_ui.environment.host = g.host
        withhold_passwords(web_ui.environment)
        body = orjson.loads(answer.get_data())
        if isinstance(body.get("host"), str):
            body["host"] = without_secrets(web_ui.environment.host or "")
        answer.set_data(orjson.dumps(body))
    elif request.endpoint == "locust.request_stats":
        body = orjson.loads(answer.get_data())  # a new answer, because Locust caches its own for 2 s
        return Response(orjson.dumps({**body, "state": test_state(web_ui, test)}), mimetype="application/json")
    return answer


@functools.lru_cache(maxsize=1)
def _charts(path: Path, _: str) -> list[tuple[str, bytes]]:
    """Return (caption, PNG) of each chart of the run at `path`, drawn once for these figures."""
    return locust_files.run_charts(RunFolder(path))


def test_state(web_ui: WebUI, test: CurrentTest) -> str:
    """Return the state of the test, as Locust names it: `spawning` once it is started, then `running` until its folder is complete.

    Locust says `spawning` only after the listeners of test_start. Ours may load a model for a minute, and a web UI that
    hears `ready` meanwhile goes back to its start form for good. Locust says `stopped` before the listeners of test_stop,
    and its web UI asks no more once it has heard `cleanup` or `stopping`. A refused test is `stopped`: with a master that is
    still `ready` the web UI would stay at "running", and its start form has no tab that could say why.
    """
    runner = web_ui.environment.runner
    if runner is None:
        return STATE_MISSING
    starters = (runner.spawning_greenlet, runner.shape_greenlet, web_ui._swarm_greenlet)  # noqa: SLF001
    starting = any(starter is not None and not starter.ready() for starter in starters)
    found: str = runner.state
    if found in (STATE_INIT, STATE_STOPPED):
        if starting:
            return STATE_SPAWNING
        if test.refusal or test.facts.get("state") != "running":
            return STATE_STOPPED if test.refusal else found
    return STATE_SPAWNING if found == STATE_SPAWNING else STATE_RUNNING


def snapshot(shown: Board, test: CurrentTest, web_ui: WebUI, *, history: bool) -> dict[str, Any]:
    """Return what tab and page show, as plain JSON: the test's target and state, Board.rows and Board.history."""
    rows, runner, facts, now = shown.rows(), web_ui.environment.runner, test.facts, test_state(web_ui, test)
    target = facts.get("target") or {}
    return {
        "state": now,
        "users": runner.user_count if runner else 0,
        "model": target.get("model"),
        "url": target.get("url"),
        "dialect": target.get("dialect"),
        "simulated": tables.simulated_profile(facts),
        "refused": test.refusal if now not in (STATE_SPAWNING, STATE_RUNNING) else None,
        "columns": tables.columns_of(rows) + tables.NOW,
        "rows": rows,
        "notes": [*tables.notes(rows), *tables.cost_note(rows, facts), *tables.folder_note(test.folder)],
        "formulas": FORMULAS,
        "smoothed_s": SMOOTHED_S,
        "history": shown.history if history else [],
    }


def _fresh(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    return answer
