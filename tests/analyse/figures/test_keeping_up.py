"""Little's law, a growing queue and the rate that a server keeps up with: on levels whose answer is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_runs import Made, make, recorded
from support.virtual_runs import Load, play

from loadtest.analyse.figures import keeping_up, rates, stationarity
from loadtest.analyse.reports.answers import _levels_off
from loadtest.analyse.run import frames
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.run.run_data import RunData
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005, jitter=0.05)


def but(one: LevelData, **changed: Any) -> LevelData:
    return LevelData(one, **changed)


def littles_law(run: RunData, index: int = 0) -> dict[str, Any]:
    """Apply Little's law to a level that has a window."""
    found = stationarity.little(run, index, rates.flow(run, run.levels[index]))
    assert found is not None
    return found


def test_littles_law_is_exact_where_every_answer_takes_the_same(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(slots=4), users=(1, 4, 8), each=20)
    run = frames.load(tmp_path / "run")
    for index, users in enumerate((1, 4, 8)):
        found = littles_law(run, index)
        assert found["ratio"] == pytest.approx(1, abs=0.02)
        assert found["in_flight"] == pytest.approx(users, rel=0.01)
        assert found["holds"]


@pytest.mark.parametrize("users", [2, 9])
def test_a_closed_loop_is_stationary(tmp_path: Path, users: int) -> None:
    played = play(TIMING, [Load(users=users, requests=16 * users, output=(20, 80))], slots=4)
    found = littles_law(frames.load(played.write(tmp_path / "run")))
    assert found["holds"]
    assert found["ratio"] == pytest.approx(1, abs=0.05)
    assert found["in_flight"] == pytest.approx(users, rel=0.02)


@pytest.mark.parametrize("users", [1, 2, 4, 8])
def test_real_ollama_is_stationary(tmp_path: Path, users: int) -> None:
    run = frames.load(recorded(tmp_path / "run", [f"ollama-0.33-mid-slots4-c{users}"]))
    assert littles_law(run)["holds"]


def test_twice_what_the_server_can_do_is_not_stationary_and_its_queue_grows(tmp_path: Path) -> None:
    """Four slots do about 2 requests/s of 50 tokens; 4/s are sent."""
    played = play(TIMING, [Load(rate=4.0, requests=120)], slots=4)
    run = frames.load(played.write(tmp_path / "run"))
    found = littles_law(run)
    assert found["ratio"] > 1.1
    assert not found["holds"]
    assert found["growing"]
    grown = stationarity.growth(run.column("send"), run.column("end"), run.column("first_token"))
    assert grown is not None
    assert grown.sentence.startswith("requests were still piling up, by ")


def test_an_open_loop_that_the_server_keeps_up_with_does_not_grow(tmp_path: Path) -> None:
    played = play(TIMING, [Load(rate=1.0, requests=200)], slots=4)
    found = littles_law(frames.load(played.write(tmp_path / "run")))
    assert found["holds"]
    assert found["growing"] is False


@pytest.mark.parametrize(
    ("step", "requests", "growing"),
    [
        (StepLaw(0.03, 0.0), 20, None),  # too few came after the first answers
        (StepLaw(0.03, 0.0), 60, False),
        (StepLaw(0.02, 0.004), 60, True),  # no request waits for a slot, but more streams make every answer slower
    ],
)
def test_a_level_that_only_fills_up_does_not_grow(
    tmp_path: Path, step: StepLaw, requests: int, *, growing: bool | None
) -> None:
    """Was "still growing" and "does not keep up" where answers of 6 s were in flight, and none waited."""
    load = Load(rate=2.0, requests=requests, output=(200, 200))
    played = play(dataclasses.replace(TIMING, step=step), [load], slots=None)
    little = littles_law(frames.load(played.write(tmp_path / "run")))
    assert little["growing"] is growing


def test_too_few_requests_say_nothing_of_growth() -> None:
    send = np.arange(11, dtype=np.float64)
    assert stationarity.growth(send, send + 100) is None
    send = np.arange(12, dtype=np.float64)
    found = stationarity.growth(send, send + 100)
    assert found is not None
    assert (found.before, found.after, found.per_s) == (2.5, 10.5, 1.0)
    assert found.growing


@pytest.mark.parametrize(("requests", "known"), [(30, False), (300, True)])
def test_a_level_as_short_as_a_few_first_tokens_does_not_tell(*, requests: int, known: bool) -> None:
    """Was "did not keep up at 300 requests/s": 30 requests in 0.1 s to a server that answers each of them after 60 ms."""
    send = np.arange(requests) / 300
    found = stationarity.growth(send, send + 0.06, send + 0.03)
    assert (found is not None) is known
    assert not (found and found.growing)


@pytest.mark.parametrize("times", [2, 3])
def test_a_level_far_above_what_the_server_can_do_is_told(times: int) -> None:
    """Was "too few requests to tell" for 100 requests at three times what the server does: its first third waited so long."""
    send = np.arange(100) / 10
    first = 1.0 + np.arange(100) * times / 10  # one at a time, the very first after a second
    found = stationarity.growth(send, first, first)
    assert found is not None
    assert found.growing


def test_a_rate_is_kept_up_with_where_the_queue_was_worked_off() -> None:
    """Was "kept up" at 1.1 to 1.5 times what a server can do, in a third of short levels: growth was less than chance may be."""
    send = np.arange(40, dtype=np.float64)
    waits = np.linspace(2, 5, 40)  # one at a time at 93 % of the rate: in flight goes from 2 to 5 of 40
    found = stationarity.growth(send, send + waits, send + waits)
    assert found is not None
    assert (found.growing, found.steady) == (False, False)
    worked_off = np.where(np.arange(40) % 13 > 7, 0.5, waits)
    found = stationarity.growth(send, send + worked_off, send + worked_off)
    assert found is not None
    assert found.steady
    send = np.arange(400, dtype=np.float64)  # someone waits always, but a queue that grows by 6 % would show
    found = stationarity.growth(send, send + 7 + send % 3, send + 7 + send % 3)
    assert found is not None
    assert found.steady


def test_a_wave_of_many_requests_is_no_growing_queue() -> None:
    """In a minute ten more in flight are much at 2/s, and nothing at 500/s, where a pause of 20 ms does that."""
    for rate, growing in ((2.0, True), (500.0, False)):
        send = np.arange(0, 60, 1 / rate)
        in_flight = np.linspace(2, 14, len(send))
        found = stationarity.growth(send, send + in_flight / rate)
        assert found is not None
        assert found.after - found.before > 5
        assert found.growing is growing, rate
    a_quarter_more = stationarity.Growth(before=40.0, after=50.0, per_s=0.5, share=0.25, requests=100)
    assert not a_quarter_more.growing


def open_level(rate: float, answered: float, growth_per_s: float) -> LevelData:
    little = {"growing": growth_per_s > 0, "growth_per_s": growth_per_s, "in_flight_first": 3.1, "in_flight_last": 3.4}
    return LevelData(index=0, concurrency=None, rate=rate, requests_per_s=answered, little=little)


def test_rates_are_said_up_to_which_the_server_keeps_up() -> None:
    four, eight, twelve = open_level(4, 4.02, 0), open_level(8, 7.9, 0), open_level(12, 9.1, 2.9)
    assert keeping_up.kept_up([four, eight, twelve]) == (
        "The server kept up at 8 requests/s, but not at 12 requests/s: there it answered 9.1 requests a second, and each second "
        "2.9 more were in flight."
    )
    assert keeping_up.kept_up([four, eight]) == (
        "The server kept up at 8 requests/s: the first third of the requests found 2.1 others in flight on average, "
        "the last third 2.4."
    )
    assert (keeping_up.kept_up([twelve]) or "").startswith(
        "The server did not keep up at 12 requests/s: there it answered 9.1"
    )
    assert keeping_up.kept_up([but(four, little=None), but(eight, rate_to=9.0)]) is None


def test_a_queue_that_grew_by_chance_is_no_limit_of_the_server() -> None:
    """Was "does not keep up at 8 requests/s: there it answers 8.4 a second", for a wave of the queue at 80 % of the load."""
    four, eight = open_level(4, 4.02, 0), but(open_level(8, 8.4, 0.08), requests_per_s_ci95=[6.9, 9.9])
    said = "at 8 requests/s is not known: there the queue grew from 3.1 to 3.4 requests, which may be chance."
    assert (keeping_up.kept_up([four, eight]) or "").endswith(f"whether it can {said}")
    assert keeping_up.kept_up([eight]) == f"Whether the server can keep up {said}"
    more = but(eight, offered_per_s=10.4, requests_per_s=8.2, requests_per_s_ci95=None)  # of 20 requests
    assert (keeping_up.kept_up([more]) or "").endswith(
        "grew from 3.1 to 3.4 requests, as 10.4 a second happened to come."
    )
    people = but(eight, sessions=True, offered_per_s=24.0, requests_per_s=16.0, requests_per_s_ci95=[14.0, 18.0])
    assert "not keep up at 8 sessions/s" in (
        keeping_up.kept_up([people]) or ""
    )  # was 16 answered of 8, "as many as came"
    surely = but(eight, requests_per_s=6.2, requests_per_s_ci95=[5.5, 7.1])
    assert "but not at 8 requests/s" in (keeping_up.kept_up([four, surely]) or "")


def test_a_rate_that_did_not_come_or_was_waited_for_is_not_said_to_be_kept_up_with() -> None:
    eight = but(open_level(8, 6.2, 0), offered_per_s=6.3, label="8")
    assert (keeping_up.kept_up([eight]) or "").startswith(
        "The server kept up at 8 requests/s (6.3 a second came): the first third of the requests"
    )
    assert _levels_off(Series("", (eight,)))[0].note == "6.3 a second came; the highest rate measured"
    assert _levels_off(Series("", (but(eight, rate_to=9.0),)))[0].note == "its rate changes"  # was "too few requests"
    unclear = but(eight, little=eight["little"] | {"steady": False})
    said = "requests waited to the end, and too few came to tell whether their queue grows"
    assert (
        keeping_up.kept_up([unclear]) == f"Whether the server can keep up at 8 requests/s is not known: there {said}."
    )
    assert str(_levels_off(Series("", (unclear,)))[0]) == f"Kept up with: not known (at 8 requests/s {said})"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"outcomes": {"ok": 42, "http_error": 18}}, "18 of 60 requests failed"),
        ({"outcomes": {"ok": 40, "cancelled": 20}, "shed": 20}, "20 of 60 requests were not sent (--max-in-flight)"),
        ({"outcomes": {"ok": 59, "left": 1}, "left": {"waiting": 1}}, "1 of 60 requests was left by their users"),
        ({"outcomes": {"ok": 30, "left": 30}, "left": {"waiting": 0}}, ""),  # of their own accord, in mid-answer
    ],
)
def test_a_rate_whose_requests_were_not_all_answered_is_not_kept_up_with(more: dict[str, Any], said: str) -> None:
    """Was "The server keeps up at 8 requests/s" where it had turned a third of them away."""
    four, eight = but(open_level(4, 4.02, 0), label="4"), but(open_level(8, 7.9, 0), **more, label="8")
    sentence, alone = keeping_up.kept_up([four, eight]) or "", keeping_up.kept_up([eight]) or ""
    assert sentence.startswith(f"The server kept up at {4 if said else 8} requests/s: ")
    assert alone.startswith(
        "Whether the server can keep up at 8 requests/s is not known" if said else "The server kept up"
    )
    assert said in sentence
    assert said in alone
    tile, _ = _levels_off(Series("", (four, eight)))
    assert tile.value == f"{4 if said else 8} requests/s"
