"""The web UI of Locust with our tab and page: the routes."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.event
import pytest
from support.made_runs import Made, closed_loop, write
from support.made_web import EVIL, FACTS, board_of, client_of, web_ui_of

from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.text import number as written

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.env import Environment

    from loadtest.users import ModelUser
    from loadtest.users.options import IN_FORM, OPTIONS, Settings
    from loadtest.users.processes.recording import CurrentTest
    from loadtest.users.results import locust_files, tables, web
    from loadtest.users.results.live_figures import TOTAL_ROW, Board


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Locust from reading pytest's command line when it renders its start form."""
    monkeypatch.setattr(sys, "argv", ["locust"])


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
    client = client_of(web_ui_of(board_of("chat"), CurrentTest(facts=facts)))
    before = client.get("/loadtest/figures").json
    assert (before["model"], before["simulated"], before["state"]) == (None, None, "ready")
    facts.update(FACTS)
    after = client.get("/loadtest/figures?history=0").json
    assert (after["model"], after["url"]) == ("made", "http://127.0.0.1:11434")
    assert after["simulated"] == "profile a100 at 10× speed"
    assert after["history"] == []
    facts["server"] = {"simulated": None}
    assert client.get("/loadtest/figures").json["simulated"] is None


def test_figures_say_where_the_run_is_kept(tmp_path: Path) -> None:
    """Whoever closes the browser must know what to give to `loadtest report`."""
    test = CurrentTest(facts=FACTS, folder=RunFolder(tmp_path))
    notes = client_of(web_ui_of(board_of("chat"), test)).get("/loadtest/figures").json["notes"]
    assert notes[-1] == f"Run folder: {tmp_path} (charts and report: loadtest report {tmp_path})"


def test_the_cost_of_tokens_is_said_while_the_test_runs() -> None:
    """The tab said watts and cost nowhere; the price of an hour needs no samples."""
    facts = {**FACTS, "scenario": {"price_per_hour": "3.6EUR"}}
    board = board_of("chat")
    rate = board.rows()[-1]["output_tokens_per_s"]
    notes = client_of(web_ui_of(board, CurrentTest(facts=facts))).get("/loadtest/figures").json["notes"]
    cost = written(1e3 / rate)
    assert notes[-1].startswith(f"At 3.60 EUR an hour, a million output tokens (simulated) cost {cost} EUR so far")
    void = [*board.rows()[:-1], {**board.rows()[-1], "verdict": "void"}]
    assert list(tables.cost_note(void, facts)) == list(tables.cost_note(board.rows(), FACTS)) == []


COLUMNS = {
    "requests": ("requests", "failures"),
    "TTFT ms": ("ttft_p50", "ttft_p95", "ttft_p99"),
    "ITL ms": ("itl_p50", "itl_p99"),
    "TPOT ms": ("tpot_p50",),
    "tokens/s": ("stream_tokens_per_s_p50", "output_tokens_per_s"),
    "queue wait ms": ("queue_wait_p50", "queue_wait_p95"),
    "client lag ms": ("lag_p99",),
}


def test_every_table_has_every_column() -> None:
    said = client_of(web_ui_of(board_of("chat"))).get("/loadtest/figures").json
    now = {"streams now": ("decoding", "waiting")}  # which is nothing at the end of a test
    assert {group: tuple(key for _, key, _ in columns) for group, columns in said["columns"]} == COLUMNS | now
    rows = said["rows"]
    assert {key for keys in (COLUMNS | now).values() for key in keys} | {"verdict"} <= set(rows[-1])
    assert None not in rows[-1].values()
    heads, *_, console = (line for line in tables.board_lines(rows) if "|" in line)
    assert tuple(head.strip() for head in heads.split("|")[1:-1]) == tuple(COLUMNS)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", locust_files.section(rows, [], None).rpartition("<tr>")[2])
    assert cells == [cell for part in console.split("|") for cell in part.split()]
    written = list(csv.DictReader(locust_files.csv_text(rows).splitlines()))[-1]
    for group, keys in COLUMNS.items():
        for key in keys:
            name = f"{key}_s" if group.endswith(" ms") else key
            assert float(written[name]) == rows[-1][key] == json.loads(locust_files.json_text(rows))[-1][name]


def test_a_refused_start_says_why_until_another_begins() -> None:
    test = CurrentTest(facts=FACTS)
    web_ui = web_ui_of(board_of("chat"), test)
    client, runner = client_of(web_ui), web_ui.environment.runner

    def shown() -> tuple[str, str | None]:
        said = client.get("/loadtest/figures").json
        return said["state"], said["refused"]

    assert shown() == ("ready", None)
    test.refusal = "there is no such model."
    assert shown() == ("stopped", "there is no such model.")  # the start form of `ready` has no tab
    assert runner is not None
    runner.state = "running"
    assert shown() == ("running", None)


@pytest.mark.parametrize("code", [2, None])
def test_the_decider_says_why_it_refused(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """A second test that --autostart's page refuses leaves the exit code to the first."""
    from loadtest.users.processes import recording
    from loadtest.users.processes.coordinator import Coordinator

    monkeypatch.setattr(recording, "current_test", recording.CurrentTest())
    environment = web_ui_of(board_of()).environment
    environment.host = "http://127.0.0.1:1"
    user: Any = type("One", (ModelUser,), {"tasks": [print]})
    environment.user_classes = [user]
    runner = environment.runner
    assert runner is not None
    coordinator: Any = Coordinator(environment, runner)
    coordinator.listen()
    environment.parsed_options = argparse.Namespace(autostart=True, headless=False)
    coordinator._last = None if code else "measured"
    gevent.spawn(runner.start, 1, 1).join()
    gevent.sleep(0)
    assert recording.current_test.code == code
    refused = recording.current_test.refusal
    assert refused is not None
    assert "http://127.0.0.1:1" in refused
    recording.note_run(None, {})
    assert recording.current_test.refusal is None


@pytest.mark.parametrize("query", ["", "?download=1&theme=dark"])
def test_the_report_of_locust_carries_the_streaming_figures(tmp_path: Path, query: str) -> None:
    folder = RunFolder(
        write(tmp_path / "run", closed_loop(Made(), level=0, users=8, requests=120, start_ns=0).records, [])
    )
    board = board_of("chat", EVIL)
    web_ui = web_ui_of(board, CurrentTest(facts=FACTS, folder=folder), web_base_path="/lt")
    client, runner = client_of(web_ui), web_ui.environment.runner
    path = f"/lt/stats/report{query}"
    assert "Streaming figures" not in client.get(path).text  # of no test
    board.generation = 1
    assert runner is not None
    runner.state = "running"
    busy = client.get(path)
    assert locust_files.section(board.rows(), [], "profile a100 at 10× speed") in busy.text
    assert int(busy.headers["Content-Length"]) == len(busy.data)
    runner.state = "stopped"
    (charts,) = {client.get(path).text.count("data:image/png;base64,") for _ in range(2)}
    assert charts == 8  # one level: no lines over load


def test_tab_and_download_join_what_others_added() -> None:
    environment = Environment()
    environment.create_local_runner()
    web_ui = environment.create_web_ui(delayed_start=True)
    web_ui.template_args["extended_tabs"] = [{"key": "theirs", "title": "Theirs"}]
    web.attach(web_ui, board_of("chat"), CurrentTest())
    assert [tab["key"] for tab in web_ui.template_args["extended_tabs"]] == ["theirs", "streams"]
    (link,) = web_ui.template_args["extended_csv_files"]
    answer = client_of(web_ui).get(link["href"].removeprefix("."))
    assert answer.mimetype == "text/csv"
    assert [row["name"] for row in csv.DictReader(answer.text.splitlines())] == ["chat", "late", TOTAL_ROW]


def test_the_start_form_asks_for_what_people_change_and_no_more() -> None:
    asked = web_ui_of(board_of()).template_args["extra_options"]
    assert {*asked} == IN_FORM < {option.key for option in OPTIONS}


def test_csv_is_the_one_that_a_headless_run_writes() -> None:
    board = board_of("chat", EVIL)
    assert client_of(web_ui_of(board)).get("/loadtest/streams.csv").text == locust_files.csv_text(board.rows())


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


@pytest.mark.parametrize("state", ["cleanup", "stopping", "stopped"])
def test_a_test_runs_until_its_folder_is_complete(state: str) -> None:
    """It was stopped before that; and Locust's page stood still at `cleanup`, for it asks on only while a test runs."""
    test = CurrentTest(facts={**FACTS, "state": "running"})
    web_ui = web_ui_of(board_of("chat"), test)
    client, runner = client_of(web_ui), web_ui.environment.runner
    assert runner is not None
    runner.state = state
    urls = ("/stats/requests", "/loadtest/figures")
    assert {client.get(url).json["state"] for url in urls} == {"running"}
    test.facts["state"], runner.state = "done", "stopped"
    assert {client.get(url).json["state"] for url in urls} == {"stopped"}


def test_a_password_in_the_start_form_is_shown_by_no_page_even_where_a_test_runs() -> None:
    """Locust takes the form's host over for a running test, too, and answers with it."""
    web_ui = web_ui_of(board_of("chat"))
    client, environment = client_of(web_ui), web_ui.environment
    assert environment.runner is not None
    environment.runner.start = lambda *_, **__: None  # type: ignore[method-assign]
    for state in ("ready", "running"):
        environment.runner.state = state
        host = "http://somebody:secret-of-theirs@127.0.0.1:9"
        answer = client.post("/swarm", data={"user_count": "1", "spawn_rate": "1", "host": host})
        assert answer.get_json()["host"] == "http://127.0.0.1:9"
        assert environment.host == "http://127.0.0.1:9"
        assert "secret-of-theirs" not in client.get("/").text
        assert "secret-of-theirs" not in client.get("/stats/report").text


def test_a_host_that_is_given_to_a_running_test_is_not_shown_for_the_one_it_measures() -> None:
    web_ui = web_ui_of(board_of("chat"))
    client, environment = client_of(web_ui), web_ui.environment
    assert environment.runner is not None
    environment.runner.start = lambda *_, **__: None  # type: ignore[method-assign]
    for state, host, shown in (
        ("ready", "http://a", "http://a"),
        ("running", "http://b", "http://a"),
        ("stopped", "http://b", "http://b"),
    ):
        environment.runner.state = state
        answer = client.post("/swarm", data={"user_count": "1", "spawn_rate": "1", "host": host})
        assert answer.get_json()["host"] == environment.host == shown


def test_the_start_form_takes_any_text_where_a_number_stood_before() -> None:
    """Locust reads a field as the type that the last test's value has: an emptied field was an error 500."""
    web_ui = web_ui_of(board_of())
    client, environment = client_of(web_ui), web_ui.environment
    assert environment.runner is not None
    environment.runner.start = lambda *_, **__: None  # type: ignore[method-assign]
    environment.parsed_options = argparse.Namespace(output_tokens="9", ignore_eos="true")
    form = {"user_count": "1", "spawn_rate": "1"}
    read = [Settings.of(environment.parsed_options).keys]
    for more in (
        {},
        {"output_tokens": "lognormal(20, 0.5)"},
        {"output_tokens": "8"},
        {"output_tokens": "", "ignore_eos": ""},
    ):
        assert client.post("/swarm", data={**form, **more}).status_code == 200
        read.append(Settings.of(environment.parsed_options).keys)
    lengths = [keys.get("output_tokens") for keys in read]
    assert lengths == [9, 9, "lognormal(20, 0.5)", 8, None]
    assert [keys.get("ignore_eos") for keys in read] == [True, True, True, True, None]


def test_beside_a_real_server_the_simulated_one_is_named() -> None:
    quick = {"simulated": {"profile": "quick", "speed": 1.0}}
    one, other = {"url": "http://a", "server": {"simulated": None}}, {"url": "http://b", "server": quick}
    assert tables.simulated_profile({"server": quick, "targets": [other]}) == "profile quick at 1× speed"
    for targets in ([one, other], [other, one]):
        said = tables.simulated_profile({"server": targets[0]["server"], "targets": targets})
        assert said == "http://b alone is simulated: profile quick at 1× speed"
    third = {"url": "http://c", "server": {"simulated": {"profile": "lockstep", "speed": 1.0}}}
    said = tables.simulated_profile({"server": quick, "targets": [other, third]})  # was the first's profile for both
    assert said == "all simulated: http://b: profile quick at 1× speed; http://c: profile lockstep at 1× speed"


EMBEDDED = Record(
    id=1,
    level=0,
    seed=1,
    dialect="ollama-embeddings",
    model="m",
    outcome=Outcome.OK,
    t_sched=0,
    t_send=0,
    t_end=1,
    prompt_tokens=40,
    status=200,
)


def test_of_embeddings_the_tables_show_e2e_and_input() -> None:
    board = Board()
    for number in range(100):
        sent = number * 10**8
        record = dataclasses.replace(EMBEDDED, id=number, t_sched=sent, t_send=sent, t_end=sent + 50_000_000)
        board.add("embed", record, 0.0)
    rows = board.rows()
    assert rows[-1]["e2e_p50"] == pytest.approx(0.05, rel=0.02)
    assert rows[-1]["input_tokens_per_s"] == pytest.approx(400, rel=0.02)
    heads = tables.board_lines(rows)[1]
    assert "E2E ms" in heads
    assert "input tokens/s" in heads
    assert "TTFT" not in heads
    assert [group for group, _ in client_of(web_ui_of(board)).get("/loadtest/figures").json["columns"]][1] == "E2E ms"
    assert "e2e_p50_s" in locust_files.csv_text(rows)
