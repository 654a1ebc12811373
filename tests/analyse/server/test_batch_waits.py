"""Waits through which many batches passed: on a real Ollama and llama.cpp these were waits for a slot that others held."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from loadtest.analyse.findings import waiting_findings
from loadtest.analyse.run.event_times import Ragged
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.queue.waits import begin_after_all, passed_share
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.model.fit import fitted_way
from loadtest.errors import PredictionError


def made(gap_ms: int, *, prompt: int = 100) -> RunData:
    """Return a level of two requests: one decodes for 2 s, and meanwhile the other waits for 1 s and reads for 0.1 s."""
    columns = {
        "send": [0.0, 0.5],
        "first_token": [0.1, 1.6],
        "made_before_s": [0.0, 0.0],
        "prefill_s": [0.1, 0.1],
        "batch_wait_s": [0.0, 1.0],
        "end": [2.1, 2.6],
        "prompt_tokens": [prompt, prompt],
    }
    chunks = Ragged.of([[100_000 + 1000 * at for at in range(0, 2000, gap_ms)], [1_100_000]])
    return cast(
        "RunData",
        SimpleNamespace(
            of_level=lambda _: np.ones(2, dtype=np.bool_),
            column=lambda name: np.array(columns[name], dtype=np.float64),
            chunks=chunks,
            levels=[{"index": 0, "concurrency": 2}],
        ),
    )


@pytest.mark.parametrize(
    ("run", "share"),
    [
        (made(50), 1.0),  # 20 tokens of the other stream came meanwhile
        (made(500), 0.0),  # two did: a batch with a long prompt in it
        (made(50, prompt=4000), 0.0),  # as many slices of 256 tokens were read
    ],
)
def test_a_wait_through_many_tokens_of_another_stream_is_no_batch_wait(run: RunData, share: float) -> None:
    assert passed_share(run, 0) == share


@pytest.mark.parametrize(
    ("gap_ms", "said"),
    [
        (
            50,
            "is waiting through many steps of other streams, with no more of them than the server handles: others may use",
        ),
        (500, "is batch wait, although no request waits for a slot"),
    ],
)
def test_others_on_the_server_are_not_called_a_batch(gap_ms: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another client on a real Ollama: "60 % is batch wait, although no request waits for a slot", up to 4.26 s."""
    figures: dict[str, Any] = {
        name: {"mean": value, "max": value}
        for name, value in (("ttft_s", 1.0), ("slot_wait_s", 0.0), ("batch_wait_s", 0.6))
    }
    level = LevelData(index=0, label="2 streams", concurrency=2, rate=None, verdict="valid", **figures)
    analysis = cast("Analysis", SimpleNamespace(run=made(gap_ms), steps=SimpleNamespace(apart=False, handover_s=0.0)))
    found = waiting_findings.batching(analysis, Series("", (level,)))
    assert found is not None
    assert said in found
    with monkeypatch.context() as changed:
        # At two streams one decodes at a time, as on one slot; the other level shows it.
        changed.setattr(waiting_findings, "begin_after_all", lambda _, one: one["index"] == 1)
        other = LevelData({**level, "index": 1, "label": "4 streams", "concurrency": 4, "peak_decoding": 3})
        after_all = waiting_findings.batching(analysis, Series("", (level, other)))
        changed.setattr(analysis.run, "requests", {}, raising=False)
        changed.setattr(waiting_findings, "mostly_held_back", lambda *_: True)
        assert waiting_findings.batching(analysis, Series("", (level, other))) is None  # whole answers begin nothing
    assert ("until all streams at work have ended" in (after_all or "")) is ("others" in said)
    if "others" in said:  # advise said "nothing waited for a slot, so more slots would change nothing"
        with pytest.raises(PredictionError, match=r"^No prediction: at 2 streams requests waited through many steps"):
            fitted_way(analysis.run, Slots(2, limit=False, method=""), cast("Steps", None), [level])


@pytest.mark.parametrize(
    ("until_s", "waited", "peak", "expected"),
    [
        (2.0, 10, 2, True),  # real llama.cpp without continuous batching: "others may use this server" was said of it
        (2.5, 10, 2, False),  # another stream was in mid-answer when they began
        (2.0, 10, 1, False),  # one stream decodes at a time: one slot, whoever holds it
        (2.0, 4, 2, False),
    ],
)
def test_a_server_that_starts_prompts_when_all_have_ended_is_told(
    until_s: float, waited: int, peak: int, expected: bool
) -> None:
    """Two streams decode together, and a request that comes when the first has ended begins 0.1 s after 2 s."""
    starts = np.repeat(np.arange(waited) * 4.0, 3)
    columns = {
        "first_token": starts + np.tile([0.1, 0.1, 2.2], waited),
        "last": starts + np.tile([1.0, until_s, 2.9], waited),
        "prefill_s": np.full(3 * waited, 0.1),
        "batch_wait_s": np.tile([0.0, 0.0, 1.0], waited),
    }
    run = cast(
        "RunData",
        SimpleNamespace(of_level=lambda _: np.ones(3 * waited, dtype=np.bool_), column=lambda name: columns[name]),
    )
    assert begin_after_all(run, {"index": 0, "peak_decoding": peak}) is expected
