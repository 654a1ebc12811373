"""Gates, the table at the end, and the files beside those of Locust."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import WALL, Made, closed_loop, make

from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust import log
    from locust.env import Environment

    from loadtest.users.options import Settings
    from loadtest.users.results import console, live_figures, locust_files, tables
    from loadtest.users.results.live_figures import Board

ZERO = WALL / 1e9


def streams(count: int = 40) -> list[Record]:
    """Measured requests of eight users on four slots: TTFT p95 about 0.55 s, 100 tokens/s a stream."""
    part = closed_loop(Made(), level=0, users=8, requests=count, start_ns=0)
    return [record for record in part.records if not record.warmup]


def failed(count: int, outcome: Outcome = Outcome.TIMEOUT) -> list[Record]:
    return [dataclasses.replace(record, outcome=outcome) for record in streams(count)]


def tokenless(count: int) -> list[Record]:
    return [dataclasses.replace(record, t_first_token=None, chunks=[], output_tokens=0) for record in streams(count)]


def embeddings(count: int) -> list[Record]:
    return [dataclasses.replace(record, dialect="ollama-embeddings") for record in tokenless(count)]


def board_of(records: list[Record]) -> Board:
    board = Board()
    for record in records:
        board.add(record.dialect, record, ZERO)
    return board


@pytest.mark.parametrize(
    ("asked", "records", "passed"),
    [
        ({"max_failure_ratio": 0.2}, streams(8) + failed(2), True),
        ({"max_failure_ratio": 0.19}, streams(8) + failed(2), False),
        ({"max_failure_ratio": 0.0}, streams(8), True),
        ({"max_failure_ratio": 0.0}, streams(8) + failed(9, Outcome.CANCELLED), True),  # we stopped those
        ({"max_failure_ratio": 0.5}, streams(8) + failed(8, Outcome.CANCELLED) + failed(9), False),  # undiluted
        ({"max_failure_ratio": 1.0}, [], False),
        ({"max_ttft_p95": 0.6}, streams(), True),
        ({"max_ttft_p95": 0.2}, streams(), False),
        ({"max_ttft_p95": 9.0}, failed(3), False),
        ({"max_ttft_p95": 9.0}, streams(57) + failed(3), True),  # a failed request is slower than any limit
        ({"max_ttft_p95": 9.0}, streams(56) + failed(4), False),
        ({"max_ttft_p95": 9.0}, streams(30) + failed(30, Outcome.CANCELLED), True),  # we stopped those
        ({"max_ttft_p95": 9.0}, streams(16), False),  # too few for a p95
        ({"max_ttft_p95": 9.0}, streams(57) + tokenless(4), False),
        ({"max_ttft_p95": 9.0}, streams(30) + embeddings(30), True),  # which have no first token
        ({"max_ttft_p95": 9.0}, embeddings(30), False),
        ({"min_tokens_per_s": 99.0}, streams(21) + failed(20), True),
        ({"min_tokens_per_s": 99.0}, streams(20) + failed(21), False),
        ({"min_tokens_per_s": 99.0}, streams(), True),
        ({"min_tokens_per_s": 101.0}, streams(), False),
        ({"min_tokens_per_s": 0.0}, failed(3), False),
    ],
)
def test_a_gate_judges_what_was_measured(asked: dict[str, float], records: list[Record], passed: bool) -> None:
    (gate,) = console.judge_gates(Settings(**asked), board_of(records))  # type: ignore[arg-type]
    assert gate.passed == passed
    assert str(gate).startswith("gate --" + next(iter(asked)).replace("_", "-"))
    assert (": passed, " in str(gate)) == passed


def test_a_gate_that_cannot_be_judged_says_so() -> None:
    asked = Settings(max_failure_ratio=0.5, max_ttft_p95=1.0, min_tokens_per_s=1.0)
    said = [str(gate) for gate in console.judge_gates(asked, board_of([]))]
    assert all(": NOT JUDGED, " in line for line in said), said
    assert str(next(console.judge_gates(Settings(max_ttft_p95=9.0), board_of(streams(16))))) == (
        "gate --max-ttft-p95 9: NOT JUDGED, TTFT p95 needs 20 requests, and 16 were measured"
    )


def test_the_word_of_the_tests_own_code_counts_in_gates() -> None:
    board = Board()
    for record in streams(8) + failed(2):
        board.add("chat", record, ZERO)
    worker = board.take_delta()
    board.overrule("chat", Outcome.OK, failed=True)  # a wrong answer
    board.overrule("chat", Outcome.OK, failed=False)  # what the record says, too
    board.overrule("chat", Outcome.TIMEOUT, failed=False)  # was to be expected
    late = board.take_delta()
    for delta in (worker, late):  # the word may come in another report than the record
        board.merge(delta, "w")
    assert (board.total().requests, board.total().failures) == (10, 2)
    assert board.total().outcomes == Counter(ok=7, rejected=1, timeout=1, accepted=1)
    assert board.total().measured == 8


def test_rejected_answers_were_measured_all_the_same() -> None:
    board = Board()
    for record in streams(8):
        board.add("chat", record, ZERO)
        board.overrule("chat", Outcome.OK, failed=True)
    row = board.rows()[0]
    assert (row["failures"], row["verdict"]) == (8, "valid")


def test_every_gate_asked_for_says_its_line_and_no_other() -> None:
    assert list(console.judge_gates(Settings(), board_of(streams()))) == []
    asked = Settings(max_failure_ratio=0.0, max_ttft_p95=0.1, min_tokens_per_s=50.0)
    assert [gate.passed for gate in console.judge_gates(asked, board_of(streams()))] == [True, False, True]


class _Runner:
    def __init__(self, *, exceptions: bool) -> None:
        self.exceptions = {1: "in a task"} if exceptions else {}


@pytest.mark.parametrize(
    ("limit", "before", "crashed", "exceptions", "after"),
    [
        (1.0, None, False, False, 0),  # failed requests alone would have made it 1
        (0.0, None, False, False, 1),
        (None, None, False, False, None),  # Locust decides
        (1.0, None, False, True, None),
        (1.0, None, True, False, None),
        (1.0, 2, False, False, 2),
        (0.0, 2, False, False, 2),
        (0.0, 0, False, False, 1),
    ],
)
def test_gates_set_the_exit_code_unless_worse_happened(
    monkeypatch: pytest.MonkeyPatch,
    limit: float | None,
    before: int | None,
    crashed: bool,
    exceptions: bool,
    after: int | None,
) -> None:
    board = Board()
    for record in streams(8) + failed(2):
        board.add("chat", record, ZERO)
    monkeypatch.setattr(console, "board", board)
    monkeypatch.setattr(log, "unhandled_greenlet_exception", crashed)
    asked = argparse.Namespace(max_failure_ratio="" if limit is None else str(limit))  # as the web form gives it
    environment = Environment(parsed_options=asked)
    environment.runner = _Runner(exceptions=exceptions)  # type: ignore[assignment]
    environment.process_exit_code = before
    console.apply_gates(environment)
    assert environment.process_exit_code == after


def rows_of(records: list[Record], name: str = "chat") -> list[dict[str, Any]]:
    board = Board()
    for record in records:
        board.add(name, record, ZERO)
    return board.rows()


def test_the_table_is_aligned_and_says_what_it_leaves_out_and_doubts() -> None:
    late = [dataclasses.replace(record, late=1) for record in streams()]
    lines = tables.board_lines(
        rows_of(late + failed(3, Outcome.CANCELLED), "a name of some length"), "profile x at 20× speed"
    )
    assert lines[0] == "Streaming figures (SIMULATED SERVER: profile x at 20× speed)"
    body = lines[1:7]
    assert len({line.rindex("|") for line in body}) == 1
    assert len({tuple(i for i, sign in enumerate(line) if sign == "|") for line in body}) == 1
    assert body[3].split() == ["a", "name", "of", "some", "length", *body[5].split()[1:]]
    assert body[3].split("|")[1].split() == ["40", "0"]
    assert body[3].endswith("| void")
    assert lines[7] == "Left out: 3 cancelled."
    assert lines[8:] == [
        "a name of some length: the client was more than one token gap late for 40 of 800 arrivals (5 %), above the limit of 1 %."
    ]


def test_a_cancelled_warm_up_is_left_out_once_as_a_warm_up() -> None:
    def warmups(records: list[Record]) -> list[Record]:
        return [dataclasses.replace(record, warmup=True) for record in records]

    gone = failed(8, Outcome.CANCELLED)
    assert "Left out: 2 cancelled and 12 warm-up (6 of them cancelled)." in tables.notes(
        rows_of(streams(8) + gone[:2] + warmups(gone[2:] + streams(6)))
    )
    assert "Left out: 6 warm-up." in tables.notes(rows_of(streams(8) + warmups(streams(6))))
    assert "Left out: 6 warm-up (6 of them cancelled)." in tables.notes(rows_of(streams(8) + warmups(gone[2:])))
    every = (
        "Every request was a warm-up: so is all that is sent before the last user has started (-u divided by -r seconds), and each "
        "user's first request."
    )
    assert every in tables.notes(rows_of(warmups(streams(6))))
    assert every not in tables.notes(rows_of(gone[:1] + warmups(streams(6))))  # the one that counted was cancelled


def test_an_empty_board_makes_a_table_too() -> None:
    assert tables.board_lines(Board().rows())[-1].startswith(live_figures.TOTAL_ROW)


@pytest.mark.parametrize(
    ("value", "factor", "said"),
    [
        (None, 1000, "–"),
        (12, 0, "12"),
        (0.0123456, 1000, "12.3"),
        (1.5, 1000, "1500"),
        (0.009999, 1000, "10.0"),
        (0, 1, "0.00"),
    ],
)
def test_numbers_have_about_three_digits(value: float | None, factor: int, said: str) -> None:
    assert tables.board_cell(value, factor) == said


def test_csv_and_json_have_a_line_a_row_and_name_their_seconds(tmp_path: Path) -> None:
    rows = rows_of(streams())
    asked = argparse.Namespace(csv_prefix=str(tmp_path / "out"), json_file=str(tmp_path / "out"), html_file=None)
    assert list(locust_files.write_files(asked, rows, None, None)) == []
    table = list(csv.DictReader(StringIO((tmp_path / "out_streams.csv").read_text())))
    written = json.loads((tmp_path / "out_streams.json").read_text())
    assert [row["name"] for row in table] == [row["name"] for row in written] == ["chat", live_figures.TOTAL_ROW]
    assert float(table[0]["ttft_p50_s"]) == written[0]["ttft_p50_s"] == rows[0]["ttft_p50"]
    assert (table[0]["decoding"], written[0]["decoding"]) == ("0", 0)


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "no").touch()
    asked = argparse.Namespace(
        csv_prefix=str(tmp_path / "no" / "out"),
        json_file=str(tmp_path / "new" / "out"),
        html_file=str(tmp_path / "gone.html"),
    )
    said = list(locust_files.write_files(asked, rows_of(streams(8)), None, None))
    assert [sentence.rpartition(": ")[2] for sentence in said] == ["File exists.", "No such file or directory."]
    assert (tmp_path / "new" / "out_streams.json").exists()  # its folder is made by Locust, but later


class _Page(HTMLParser):
    """Collects the tags and the text of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.sources: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "td"
        if tag == "td":
            self.cells.append("")
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def test_the_page_of_locust_gets_a_section_with_charts_and_names_are_escaped(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1, 8))
    page = tmp_path / "report.html"
    page.write_text(
        f"<html><script>x = '{locust_files.ANCHOR}'</script><body>{locust_files.ANCHOR}<script>1</script></body></html>"
    )
    name = "<script>alert(1)</script>"
    asked = argparse.Namespace(csv_prefix=None, json_file=None, html_file=str(page))
    assert (
        list(locust_files.write_files(asked, rows_of(streams(), name), RunFolder.open(tmp_path / "run"), "profile y"))
        == []
    )
    text = page.read_text(encoding="utf-8")
    before, _, after = text.partition('<section class="loadtest">')
    assert before.endswith(locust_files.ANCHOR)
    assert after.endswith("</section><script>1</script></body></html>")
    assert "SIMULATED SERVER" in after
    parser = _Page()
    parser.feed(after)
    assert parser.cells[0] == name
    assert parser.cells[1:3] == ["40", "0"]
    assert len(parser.sources) == 11
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("page", "rest"), [("<body>x</body>", "</body>"), ("no page at all", "")])
def test_a_page_of_another_shape_gets_the_section_at_its_end(tmp_path: Path, page: str, rest: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(page)
    locust_files.insert_section(path, "<p>figures</p>")
    assert path.read_text() == page.removesuffix(rest) + "<p>figures</p>" + rest


def test_a_run_without_requests_has_no_charts(tmp_path: Path) -> None:
    assert locust_files.run_charts(None) == []
    folder = RunFolder.create(tmp_path / "run")
    assert locust_files.run_charts(folder) == []
