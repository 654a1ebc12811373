"""How numbers, units and other people's text are written."""

from __future__ import annotations

import math

import pytest

from loadtest import text
from loadtest.analyse.explain.explanation import Without
from loadtest.analyse.reports import explain_report, prediction_report
from loadtest.analyse.whatif.predictions.prediction_file import Case
from loadtest.scenario import Level


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0, "0.00"),
        (0.354, "0.35"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1780.4, "1780"),
        (9999.6, "10,000"),
        (40_118.0, "40,100"),
        (-12.34, "-12.3"),
    ],
)
def test_a_number_has_three_digits_and_no_exponent(value: float | None, said: str) -> None:
    assert text.number(value) == said


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Past 2 streams requests queue.", "past 2 streams requests queue."),
        ("A step takes 2 ms.", "a step takes 2 ms."),
        ("TTFT is 2 ms.", "TTFT is 2 ms."),
        ("", ""),
    ],
)
def test_a_sentence_behind_a_colon_begins_with_a_small_letter(sentence: str, said: str) -> None:
    assert text.after_colon(sentence) == said


@pytest.mark.parametrize(("rate", "said"), [(1.0, "1 request/s"), (0.5, "0.5 requests/s"), (10.0, "10 requests/s")])
def test_one_request_a_second_is_singular(rate: float, said: str) -> None:
    assert text.rated(rate) == said
    assert Level(index=0, concurrency=None, rate=rate, requests=1).load == said
    assert Level(index=0, concurrency=None, rate=rate, requests=1, sessions=True).load == said.replace(
        "request", "session"
    )
    assert Level(index=0, concurrency=None, rate=1.0, rate_to=8.0, requests=1).load == "1 to 8 requests/s"


@pytest.mark.parametrize(("value", "said"), [(8.0, "8"), (12.25, "12.25"), (0.1, "0.1"), (1e12, "1,000,000,000,000")])
def test_what_was_given_keeps_its_digits(value: float, said: str) -> None:
    assert text.number(value, exact=True) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "unknown"),
        (math.inf, "for ever"),
        (0.0, "0 ms"),
        (0.0000123, "12.3 µs"),
        (0.0004, "0.40 ms"),
        (0.9996, "1.00 s"),
        (0.0452, "45.2 ms"),
        (1.911, "1.91 s"),
    ],
)
def test_a_duration_picks_its_unit(value: float | None, said: str) -> None:
    assert text.seconds(value) == said
    assert text.seconds(0.005, exact=True) == "5 ms"


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "0 %"), (0.00123, "0.12 %"), (0.0912, "9.1 %"), (0.0996, "10 %"), (1.0, "100 %")]
)
def test_a_share_is_a_percentage(share: float, said: str) -> None:
    assert text.percent(share) == said


def test_a_band_does_not_begin_at_no_time_at_all() -> None:
    """Was "0 ms to 2.00 s" below a predicted TTFT, and in what explain says of a request without its cause."""
    said = Case("", None, {"ttft_s.p95": 1.0}, {"ttft_s.p95": (0.0, 2.0)})
    assert prediction_report._cell(said, "ttft_s.p95") == "1.00 s\nup to 2.00 s"
    assert explain_report._band(Without("load", None, 1.0, (0.0, 2.0))) == "up to 2.00 s"
    assert text.between(0.5, 2.0, text.seconds) == "500 ms to 2.00 s"


def test_a_change_has_its_sign() -> None:
    assert [text.signed(share) for share in (0.04, -0.0912, 0.0001)] == ["+4.0 %", "−9.1 %", "0.0 %"]


def test_sizes_counts_and_lists() -> None:
    assert [text.size(count) for count in (None, 0, 42e9, 1.05e9, 658e6, 2000)] == [
        *("unknown", "0 MB", "42 GB", "1.05 GB", "658 MB", "2 kB")
    ]
    assert [text.binary_size(count) for count in (text.GIB, text.MIB)] == ["1.00 GiB", "1.0 MiB"]
    assert [text.counted(1, "stream"), text.counted(2, "stream"), text.counted(2, "batch", "batches")] == [
        *("1 stream", "2 streams", "2 batches")
    ]
    assert [text.listed(names) for names in ([], [1], [1, 2], ["a", "b", "c"])] == ["", "1", "1 and 2", "a, b and c"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1 stream", "2 streams", "8 streams"], "1, 2 and 8 streams"),
        (["0.5 requests/s", "2.5 requests/s"], "0.5 and 2.5 requests/s"),
        (["8 streams", "1 stream"], "8 streams and 1 stream"),
        (["120 ms at 1 stream", "1.59 s at 8 streams"], "120 ms at 1 stream and 1.59 s at 8 streams"),
        (["2 streams", "3 more"], "2 streams and 3 more"),
        (["8 streams"], "8 streams"),
    ],
)
def test_numbers_of_the_same_thing_share_its_name(names: list[str], said: str) -> None:
    assert text.listed(names) == said


def test_instants_are_written_for_people() -> None:
    assert text.instant("2026-11-27T23:52:26.775+00:00") == "2026-11-27, 23:52 UTC"
    assert text.joined(" · ", "a", "", None, 2) == "a · 2"
    assert text.profile_at_speed({"profile": "quick", "speed": 0.5}) == "profile quick at 0.5× speed"


@pytest.mark.parametrize(
    ("key", "said"), [("ttft_s.p95", "250 ms"), ("stream_tokens_per_s", "0.25"), ("cached_share.mean", "25 %")]
)
def test_a_figure_is_written_by_its_key(key: str, said: str) -> None:
    assert text.writer_of(key)(0.25) == said
