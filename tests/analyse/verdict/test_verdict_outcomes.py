"""What the verdict says of how workers and the run itself ended."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.judged import failed, judged, without_answer
from support.made_runs import MS, Made, grid, unanswered, write

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.summary import analyse
from loadtest.analyse.verdict.remedies import REMEDIES
from loadtest.records import Outcome, Record
from loadtest.scenario import Scenario
from loadtest.text import seconds


def test_a_server_that_stopped_answering_is_dated(tmp_path: Path) -> None:
    """The last 12 of 32 fail, as where a server is stopped: less than half, and no chance."""
    gone = lambda record: failed("connection refused")(record) if record.id >= 24 else {}  # noqa: E731
    _, truth = grid(Made(), (4,))
    last = max(record.t_end for record in truth.records if record.id < 24) / 1e9
    verdict, reasons = judged(tmp_path / "run", gone)
    assert verdict == "suspect"
    first, _, then = reasons[0].partition("; ")
    assert first == (
        "12 of 32 requests failed (12 http_error: connection refused), above the allowed 0 %: latencies and speeds are of the others"
    )
    assert then == f"no request succeeded after {seconds(last)} of this level, the last 12 all failed"
    few = lambda record: failed("connection refused")(record) if record.id >= 34 else {}  # noqa: E731
    assert "no request succeeded" not in judged(tmp_path / "two", few)[1][0]  # two in a row prove nothing
    often = lambda record: failed("busy")(record) if (record.id % 5 and record.id > 4) or record.id > 32 else {}  # noqa: E731
    assert "no request succeeded" not in judged(tmp_path / "often", often)[1][0]  # as nearly all before them did


def test_the_words_of_most_failures_are_not_said_to_be_those_of_all(tmp_path: Path) -> None:
    def fails(record: Record) -> dict[str, Any]:
        return failed("busy" if record.id % 8 else "out of memory")(record) if record.id % 2 == 0 else {}

    (reason, *_) = judged(tmp_path / "run", fails)[1]
    assert "16 of 32 requests failed (16 http_error, 12 of them: busy)" in reason


@pytest.mark.parametrize(("users", "verdict"), [(2, "void"), (1, "suspect"), (0, "valid")])
def test_users_who_wait_through_a_level_with_a_warm_up_are_missing_from_it(
    users: int, verdict: str, tmp_path: Path
) -> None:
    """Was valid behind h2o with max-connections 2: three of five waited 14 s and more, and TTFT p95 was 108 ms."""
    levels, truth = grid(Made(), (4,))
    last = max(record.t_end for record in truth.records)
    stuck = {**without_answer(truth.records[0]), "outcome": Outcome.CANCELLED, "t_end": last}
    warm = [record for record in truth.records if record.warmup][:users]
    records = [dataclasses.replace(one, **stuck) if one in warm else one for one in truth.records]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert level["verdict"] == verdict
    assert [one["cause"] for one in level["causes"]] == ["stuck"] * bool(users)


@pytest.mark.parametrize("status", [503, 500])  # lighttpd, Envoy; Portkey, LiteLLM
def test_a_server_that_was_gone_for_a_while_behind_a_gateway_did_not_turn_requests_away(
    tmp_path: Path, status: int
) -> None:
    """Was "send less load", where a gateway answered until a killed server was back; and a word on what is normal."""
    gone = {8: Outcome.TRUNCATED, 9: Outcome.TRUNCATED, **dict.fromkeys(range(10, 22), Outcome.HTTP_ERROR)}

    def fails(record: Record) -> dict[str, Any]:
        return {**without_answer(record), "outcome": gone[record.id], "status": status} if record.id in gone else {}

    levels, truth = grid(Made(), (4,))
    records = [dataclasses.replace(record, **fails(record)) for record in truth.records]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert [one["cause"] for one in level["causes"]] == ["server_gone"]


def test_a_server_whose_other_answers_go_on_turned_requests_away(tmp_path: Path) -> None:
    """Was "look in the server's log whether it ended": one answer broke off, and its user was refused until another one's ended."""
    levels, truth = grid(Made(tokens=60), (4,))
    broken = next(one for one in truth.records if one.id == 8)
    at = broken.t_end - 300 * MS
    cut = {
        "outcome": Outcome.TRUNCATED,
        "t_end": at,
        "chunks": broken.chunks[:20],
        "server_us": None,
        "server_first": None,
    }
    spoilt: dict[int, dict[str, Any]] = {8: cut}
    for i in range(12, 24):
        sent = {
            "t_sched": at + i * MS,
            "t_send": at + i * MS,
            "t_end": at + (i + 1) * MS,
            "t_headers": None,
            "t_first_byte": None,
        }
        spoilt[i] = {**without_answer(broken), **sent, "status": 503}
    records = [dataclasses.replace(one, **spoilt.get(one.id, {})) for one in truth.records]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert [one["cause"] for one in level["causes"]] == ["turned_away"]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        (
            {"status": 503, "error": "no workers", "since": 24},
            "server_gone",
        ),  # a gateway answers for a server that ended
        ({"status": 502, "error": "Bad Gateway", "since": 24}, "server_gone"),
        ({"status": 500, "error": "fetch failed: ECONNREFUSED", "since": 24}, "server_gone"),
        ({"status": 429, "error": "the day's quota is used up", "since": 24}, "turned_away"),
        ({"outcome": Outcome.CONNECT_ERROR, "error": "cannot connect to h:1: connection refused"}, "server_gone"),
        ({"outcome": Outcome.TRUNCATED, "error": "the connection broke"}, "server_gone"),
        ({"status": 503, "error": "busy"}, "turned_away"),
        ({"status": 429, "error": "busy"}, "turned_away"),
        ({"outcome": Outcome.TIMEOUT, "error": "no token within 5 s (first token limit)"}, "too_slow"),
        ({"status": 524, "error": "error code: 524"}, "too_slow"),
        ({"status": 500, "error": "out of memory"}, "too_many_failed"),
        ({"outcome": Outcome.STREAM_ERROR, "status": 200, "error": "out of memory"}, "too_many_failed"),
    ],
)
def test_the_remedy_fits_how_requests_failed(tmp_path: Path, how: dict[str, Any], cause: str) -> None:
    levels, truth = grid(Made(), (4,))
    since, how = how.get("since"), {key: value for key, value in how.items() if key != "since"}
    records = [
        dataclasses.replace(record, **{**without_answer(record), **how})
        if (record.id % 4 == 0 if since is None else record.id >= since)
        else record
        for record in truth.records
    ]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert [one["cause"] for one in level["causes"]] == [cause]
    assert ("429" in REMEDIES[cause].advice, "--rate" in REMEDIES[cause].advice) == (False, cause == "turned_away")


@pytest.mark.parametrize(
    ("how", "warmup", "cause", "said"),
    [
        ({"outcome": Outcome.CANCELLED}, False, "none_ended", "no request ended well (36 cancelled)"),
        ({"outcome": Outcome.CANCELLED}, True, "none_ended", "the run ended before a request of this level counted"),
        (
            {"status": 500, "error": "no"},
            False,
            "nothing_succeeded",
            "no request ended well (36 http_error (HTTP 500): no)",
        ),
        (
            {"status": 500, "error": "no"},
            True,
            "nothing_succeeded",
            "no request ended well (36 http_error (HTTP 500): no)",
        ),
        (
            {"outcome": Outcome.CONNECT_ERROR, "error": "connection refused"},
            False,
            "server_gone",
            "no request ended well (36 connect_error: connection refused)",
        ),
        (  # most of them, not all
            {"outcome": Outcome.CONNECT_ERROR, "error": "no", "first": Outcome.TIMEOUT},
            False,
            "server_gone",
            "no request ended well (35 connect_error: no; 1 timeout: no)",
        ),
        (  # behind Deno's server, which answers 500 once its own is gone
            {"status": 500, "error": "no", "first": Outcome.TRUNCATED},
            False,
            "server_gone",
            "no request ended well (35 http_error (HTTP 500): no; 1 truncated: no)",
        ),
    ],
)
def test_what_an_error_says_is_asked_for_only_where_one_is_shown(
    tmp_path: Path, how: dict[str, Any], warmup: bool, cause: str, said: str
) -> None:
    """Was "do what the error says" of a real Ollama whose long answers the end of the run cut off."""
    levels, truth = grid(Made(), (4,))
    first, how = how.get("first"), {key: value for key, value in how.items() if key != "first"}
    records = [dataclasses.replace(one, **{**without_answer(one), "warmup": warmup, **how}) for one in truth.records]
    if first:
        records[0] = dataclasses.replace(records[0], outcome=first, status=200)
    level = analyse(write(tmp_path / "run", records, levels, state="interrupted")).summary["levels"][0]
    assert (level["causes"][0]["cause"], level["reasons"][0]) == (cause, said)


def test_of_doubts_that_all_answers_share_the_first_is_said(tmp_path: Path) -> None:
    """Was any of them, another one each time that a report was made."""
    doubts = [f"it is {word}" for word in ("short", "long", "odd", "late", "torn", "cold")]
    assert f"answers: {doubts[0]} (" in " ".join(judged(tmp_path / "run", lambda _: {"doubts": doubts})[1])


@pytest.mark.parametrize(("every", "verdict"), [(2, "void"), (3, "suspect")])
def test_a_level_that_a_cache_answered_has_no_figures_of_the_server(tmp_path: Path, every: int, verdict: str) -> None:
    """It was suspect, with 190,000 prompt tokens/s, where Varnish answered all of it."""
    said = {"doubts": ["it is odd", "a cache on the way answered in the server's place (Age: 12)"]}
    found, reasons = judged(tmp_path / "run", lambda _: said, every=every)
    assert (found, "a cache on the way" in reasons[0]) == (verdict, True)


def test_many_failures_are_void_even_where_they_are_allowed(tmp_path: Path) -> None:
    scenario = Scenario(name="made", max_error_ratio=0.9).to_dict()
    assert judged(tmp_path / "run", without_answer, every=2, scenario=scenario)[0] == "void"


@pytest.mark.parametrize(("t_ns", "void"), [(None, (0, 1)), (0, (0, 1)), ("second", (1,)), ("after", ())])
def test_a_lost_locust_worker_voids_what_ran_then_and_later(
    tmp_path: Path, t_ns: int | str | None, void: tuple[int, ...]
) -> None:
    levels, truth = grid(Made(), (2, 4))
    at = {"second": levels[1]["started_ns"], "after": levels[1]["ended_ns"] + 1000 * MS}.get(str(t_ns), t_ns)
    locust = {"lost_workers": [{"worker": "host_1", "t_ns": at, "why": "killed by SIGKILL"}]}
    clock = {"monotonic_ns": 5_000_000_000, "wall_ns": 0}
    found = analyse(write(tmp_path / "run", truth.records, levels, locust=locust, clock=clock)).summary["levels"]
    for level in found:
        assert level["verdict"] == ("void" if level["index"] in void else "valid")
        assert any(
            "(killed by SIGKILL): from then on its users did not send as asked" in reason for reason in level["reasons"]
        ) == (level["index"] in void)


def test_a_locust_worker_that_came_back_spoils_no_later_level(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (2, 4))
    lost = {"worker": "1", "t_ns": 0, "back_ns": levels[1]["started_ns"] - 1, "why": "it stopped answering"}
    clock = {"monotonic_ns": 5_000_000_000, "wall_ns": 0}
    facts: dict[str, Any] = {"locust": {"lost_workers": [lost]}, "clock": clock}
    one, other = analyse(write(tmp_path / "run", truth.records, levels, **facts)).summary["levels"]
    assert (one["verdict"], other["verdict"]) == ("void", "valid")
    assert any("(it stopped answering): until " in reason for reason in one["reasons"]), one["reasons"]


def test_a_level_with_more_requests_at_once_than_users_is_suspect(tmp_path: Path) -> None:
    """A Locust task that sends in greenlets of its own made "4 streams" of 16."""
    levels, truth = grid(Made(), (2, 4))
    levels[1]["concurrency"] = 3
    one, other = analyse(write(tmp_path / "run", truth.records, levels, driver="locust")).summary["levels"]
    assert (one["verdict"], other["verdict"]) == ("valid", "suspect")
    assert other["reasons"] == ["up to 4 requests were in flight at once, from 3 users"]


def test_a_failed_run_says_so_and_voids_the_level_that_ran(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (2, 4))
    failure = "the disk is full: 12 records were lost"
    one = analyse(write(tmp_path / "run", truth.records, levels, state="failed", failure=failure))
    assert [level["verdict"] for level in one.summary["levels"]] == ["valid", "void"]
    assert one.summary["levels"][1]["reasons"] == [f"the run failed while this level ran: {failure}"]
    assert one.summary["trouble"] == [f"The run failed: {failure}. The figures are of what was recorded."]
    assert not any("run failed" in said for said in all_findings(one))  # which a page would show twice


def test_a_level_that_was_stopped_says_why(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (2, 4))
    levels[0]["stopped"] = "stopped after 20 errors in a row: HTTP 500."
    one = analyse(write(tmp_path / "run", truth.records, levels)).summary["levels"]
    assert (one[0]["verdict"], one[0]["reasons"]) == ("void", ["stopped after 20 errors in a row: HTTP 500"])
    assert one[1]["verdict"] == "valid"


def test_answers_of_several_models_are_a_mixture_and_of_one_other_a_note(tmp_path: Path) -> None:
    verdict, reasons = judged(tmp_path / "two", lambda _: {"said_model": "small"}, every=4)
    assert verdict == "suspect"
    assert "answers name 2 models, and made was asked for (made in 24 and small in 8)" in reasons[0]
    levels, truth = grid(Made(), (4,))
    records = [dataclasses.replace(record, said_model="made-2026-01-01") for record in truth.records]
    one = analyse(write(tmp_path / "one", records, levels))
    assert one.summary["verdict"] == "valid"
    said = "32 of 32 requests were answered by the model made-2026-01-01, by its answers' word; made was asked for."
    assert said in all_findings(one)


@pytest.mark.parametrize(
    ("took_s", "tokens", "every", "says"),
    [
        (
            15.0,
            9,
            4,
            "each of these ended about 15.0 s after it was sent, as by a time limit of a gateway on the way or of the server",
        ),
        (None, 9, 4, "each of these ended about 5.00 s after its last token, or its sending, as by a time limit"),
        (15.0, None, 4, "each of these ended about 15.0 s after it was sent"),
        (
            15.0,
            9,
            1,
            "no request ended well (32 truncated: closed); each of these ended about 15.0 s after it was sent",
        ),
        (0.5, 9, 4, None),
    ],
)
def test_failures_after_one_time_are_those_of_a_time_limit(
    tmp_path: Path, took_s: float | None, tokens: int | None, every: int, says: str | None
) -> None:
    """Eight of 32 are cut off, or all of them (Envoy's route timeout), after as long, or as long after their last token."""

    def cut(record: Record) -> dict[str, Any]:
        sent, some = record.t_send or 0, (tokens or 0) - record.id // 4
        last = sent + record.chunks[some] * 1000
        took = {"t_end": sent + int(took_s * 1e9) if took_s else last + 5000 * MS}
        if tokens is None:
            return {**without_answer(record), **took, "status": 504, "error": "HTTP 504"}
        return {"outcome": Outcome.TRUNCATED, "chunks": record.chunks[: some + 1], "error": "closed", **took}

    verdict, reasons = judged(tmp_path / "run", cut, every=every)
    assert verdict == ("suspect" if every > 1 else "void")
    assert (says in reasons[0]) if says else ("time limit" not in reasons[0]), reasons


@pytest.mark.parametrize(("status", "together"), [(None, True), (503, False)])
def test_a_server_that_died_or_is_gone_has_no_time_limit(tmp_path: Path, status: int | None, together: bool) -> None:
    """All broke off when it died, 3 s after they were sent at once; or a gateway gave each up after as many tries."""

    def cut(record: Record) -> dict[str, Any]:
        sent = (record.id * MS) if together else (record.t_send or 0)
        ended = 3_000_000_000 + (0 if together else sent)
        outcome = {"outcome": Outcome.TRUNCATED, "error": "closed"} if status is None else {"status": status}
        return {**without_answer(record), **outcome, "t_sched": sent, "t_send": sent, "t_end": ended}

    _, reasons = judged(tmp_path / "run", cut, every=1)
    assert "no request ended well" in reasons[0]
    assert "time limit" not in reasons[0]


def test_not_each_failure_is_said_to_have_met_a_limit_that_one_did_not(tmp_path: Path) -> None:
    took = iter([12, *[15] * 99])

    def cut(record: Record) -> dict[str, Any]:
        ended = (record.t_send or 0) + next(took) * 1_000_000_000
        return {**without_answer(record), "t_end": ended, "status": 504, "error": "HTTP 504"}

    _, reasons = judged(tmp_path / "run", cut, every=2)
    assert "nearly each of these ended about 15.0 s after it was sent" in reasons[0]  # was "each"


def test_notes_and_few_resent_requests_are_said_once(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,), each=40)
    records = [dataclasses.replace(r, notes=[f"an unknown key of {r.id}"]) if r.id % 2 else r for r in truth.records]
    records[9] = dataclasses.replace(
        records[9], resent=(records[9].t_send or 0) + 300_000, finish_reason="content_filter"
    )
    one = analyse(write(tmp_path / "run", records, levels))
    assert one.summary["verdict"] == "valid"
    said = all_findings(one)
    assert any(line.startswith("80 of 160 requests: for example, an unknown key of") for line in said)
    assert "A content filter or a refusal ended the answer of 1 of 160 requests." in said
    twice = [line for line in said if line.startswith("1 of 160 requests was sent twice")]
    assert [line.partition(". ")[2] for line in twice] == [
        "TTFT counts from the first send, up to 0.30 ms before the second."
    ]


@pytest.mark.parametrize("every", [1, 3])
def test_connections_that_most_requests_opened_are_said(tmp_path: Path, every: int) -> None:
    levels, truth = grid(Made(), (4,))
    records = [dataclasses.replace(r, connect_us=58_000) if r.id % every == 0 else r for r in truth.records]
    said = all_findings(analyse(write(tmp_path / "run", records, levels)))
    opened = "For 32 of 32 requests a connection was opened first, in 58.0 ms (p50), which no TTFT holds."
    assert (opened in said, any("was opened first" in line for line in said)) == (every == 1, every == 1)


def test_warm_ups_that_failed_are_said(tmp_path: Path) -> None:
    """A real Ollama turned away 7 of 12 requests that came while its model was loaded, all of them warm-ups: not a word."""
    levels, truth = grid(Made(), (4,))
    refused = [
        unanswered(one, Outcome.HTTP_ERROR, status=503, error="HTTP 503: busy") if one.id in (1, 2, 3) else one
        for one in truth.records
    ]
    one = analyse(write(tmp_path / "run", refused, levels))
    assert one.summary["verdict"] == "valid"
    said = "3 of 4 warm-up requests failed, which no figure counts (3 http_error: HTTP 503: busy)."
    assert said in all_findings(one)


def test_failures_beside_users_who_hung_up_are_said(tmp_path: Path) -> None:
    """15 errors were "the others" whose speeds were told, and stood in no reason."""
    gone: dict[str, Any] = {"t_first_token": None, "t_first_visible": None, "chunks": [], "output_tokens": None}

    def change(record: Record) -> dict[str, Any]:
        if record.id % 4:
            return {**gone, "outcome": Outcome.LEFT}
        return {**gone, "outcome": Outcome.HTTP_ERROR, "status": 500, "error": "HTTP 500"}

    verdict, reasons = judged(tmp_path / "run", change)
    assert verdict == "suspect"
    assert any("no speed and no whole answer was measured" in reason for reason in reasons), reasons
    assert any("HTTP 500" in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (
            16,
            "in 16 of 32 requests users hung up before their first token: speeds and whole answers are of the 16 others",
        ),
        # Was "of the others, half of them or fewer" where nobody stayed.
        (36, "in 32 of 32 requests users hung up before their first token: no speed and no whole answer was measured"),
    ],
)
def test_where_everybody_hung_up_there_are_no_others(tmp_path: Path, left: int, said: str) -> None:
    gone: dict[str, Any] = {
        "outcome": Outcome.LEFT,
        "t_first_token": None,
        "t_first_visible": None,
        "chunks": [],
        "output_tokens": None,
    }
    verdict, reasons = judged(tmp_path / "run", lambda record: gone if record.id >= 36 - left else {})
    assert verdict == "suspect"
    assert any(reason.startswith(said) for reason in reasons), reasons
