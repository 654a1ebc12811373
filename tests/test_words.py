"""What reports say in words: what each sentence must have seen, and what a reader would otherwise take it for."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.analyse.findings.simulated import simulated_warning
from loadtest.analyse.reports.answers import verdict_in_words


def summary(speed: float | None, verdict: str = "valid", **more: Any) -> dict[str, Any]:
    simulated = speed and {"profile": "quick", "speed": speed}
    return {"verdict": verdict, "simulated": simulated, "levels": [{"verdict": verdict}], **more}


def group(name: str, speed: float | None) -> dict[str, Any]:
    return {"name": name, "server": {"simulated": speed and {"profile": "quick", "speed": speed}}}


def test_figures_of_a_simulated_server_are_quoted_as_a_simulation() -> None:
    assert verdict_in_words(summary(None)) == "These figures can be quoted: the client kept up with every level."
    assert verdict_in_words(summary(2.0)).endswith("the server was simulated, so quote these figures as a simulation.")
    some = verdict_in_words(summary(2.0, groups=[group("a", 2.0), group("b", None)]))
    assert some.endswith("quote the figures of what was simulated as a simulation.")
    assert verdict_in_words(summary(2.0, "void")) == "Do not quote the figures of void levels. Of 1 level 1 is void."


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (1.0, "not a server."),
        (2.0, "At 2× speed every time of the server is half of the profile's."),
        (20.0, "At 20× speed every time of the server is 1/20 of the profile's."),
        (0.5, "At 0.5× speed every time of the server is twice the profile's."),
        (0.25, "At 0.25× speed every time of the server is 4 times the profile's."),
    ],
)
def test_a_speed_says_what_it_does_to_times(speed: float, said: str) -> None:
    assert simulated_warning(summary(speed)).endswith(said)


def test_speeds_that_differ_are_not_said_as_one() -> None:
    several = summary(2.0, groups=[group("a", 2.0), group("b", 20.0), group("c", None)])
    assert simulated_warning(several).endswith("not a server.")
