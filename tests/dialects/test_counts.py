"""The server's numbers: taken wherever they are sent, unknown where they were not, and doubted where they disagree."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtest import metrics
from loadtest.analyse.run import frames
from loadtest.dialects import Dialect, Ending, OllamaChat, OpenAIChat
from loadtest.live import Figures
from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RecordWriter

CHAT, V1 = OllamaChat("m"), OpenAIChat("m")
A = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def read(dialect: Dialect, body: str) -> Ending:
    decoder = dialect.decoder()
    decoder.feed(body.encode())
    ending = decoder.close()
    assert ending.error is None
    assert orjson.loads(orjson.dumps(ending.server)) == ending.server
    return ending


def v1(*rows: dict[str, Any]) -> Ending:
    return read(V1, "".join(f"data: {json.dumps(row)}\n\n" for row in rows))


def ollama(**last: Any) -> Ending:
    row = {"message": {"role": "assistant", "content": "a"}, "done": False}
    return read(CHAT, json.dumps(row) + "\n" + json.dumps({"done": True, "done_reason": "stop", **last}) + "\n")


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
PLACES: dict[str, list[dict[str, Any]]] = {
    "a chunk of its own": [A, STOP, {"choices": [], "usage": USAGE}],
    "choices null": [A, STOP, {"choices": None, "usage": USAGE}],
    "no choices": [A, STOP, {"usage": USAGE}],
    "before the finish": [A, {"choices": [], "usage": USAGE}, STOP],
    "on the finish": [A, STOP | {"usage": USAGE}],
    "in a choice (Moonshot)": [A, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]}],
    "in x_groq": [A, STOP | {"x_groq": {"id": "x", "usage": USAGE}}],
    "on every chunk, cumulative": [
        A | {"usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}},
        A | {"usage": USAGE},
        STOP | {"usage": USAGE},
    ],
    "under newer names": [A, STOP | {"usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}}],
    "as floats without a fraction": [A, STOP | {"usage": {"prompt_tokens": 7.0, "completion_tokens": 2.0}}],
    "a zero one behind it": [
        A,
        STOP | {"usage": USAGE},
        {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
    ],
}


@pytest.mark.parametrize("place", PLACES)
def test_usage_is_taken_wherever_it_is_sent(place: str) -> None:
    ending = v1(*PLACES[place])
    assert (ending.prompt_tokens, ending.output_tokens) == (7, 2)
    assert (ending.notes, ending.doubts, ending.done) == ([], [], True)


DETAILS = {"completion_tokens_details": {"reasoning_tokens": 6}}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], int | None, str | None]] = {
    "reasoning beside completion": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 23} | DETAILS,
        8,
        None,
    ),
    "reasoning within completion": (
        {"prompt_tokens": 15, "completion_tokens": 8, "total_tokens": 23} | DETAILS,
        8,
        None,
    ),
    "no total": ({"prompt_tokens": 15, "completion_tokens": 8} | DETAILS, 8, None),
    "nothing but reasoning": ({"prompt_tokens": 15, "completion_tokens": 0, "total_tokens": 21} | DETAILS, 6, None),
    "reasoning named plainly": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 23, "reasoning_tokens": 6},
        8,
        None,
    ),
    "a total that says more": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 23},
        2,
        "more than prompt and output",
    ),
    "a reasoning token more than output (sgl-project/sglang#39826)": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 17, "reasoning_tokens": 3},
        2,
        None,
    ),
    "a total that says more than reasoning explains": (
        {"prompt_tokens": 15, "completion_tokens": 8, "total_tokens": 300} | DETAILS,
        8,
        "more than prompt and output",
    ),
    "a total that says less": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 16},
        2,
        "less than prompt and output",
    ),
    "more reasoning than output": (
        {"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 17} | DETAILS,
        2,
        "more reasoning",
    ),
    "more cached than prompt": (USAGE | {"prompt_tokens_details": {"cached_tokens": 9}}, 2, "more cached"),
    "no token of a text": ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, None, "counts no token"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_counts_that_disagree(name: str) -> None:
    usage, output, doubt = CONTRADICTIONS[name]
    ending = v1(A, STOP, {"choices": [], "usage": usage})
    assert (ending.output_tokens, len(ending.doubts)) == (output, 0 if doubt is None else 1)
    assert (doubt or "") in "".join(ending.doubts)
    assert ending.server == {"usage": usage}


def test_a_server_that_counts_nothing_at_all_is_not_doubted() -> None:
    """An aimock's answers in Anthropic's and Ollama's formats have zeros for all counts."""
    ending = ollama(eval_count=0, prompt_eval_count=0)
    assert (ending.prompt_tokens, ending.output_tokens, ending.doubts) == (None, None, [])


def test_counts_that_fall_from_chunk_to_chunk_are_doubted() -> None:
    ending = v1(
        A | {"usage": {"prompt_tokens": 7, "completion_tokens": 5}},
        STOP | {"usage": {"prompt_tokens": 7, "completion_tokens": 3}},
    )
    assert (ending.output_tokens, ending.doubts) == (
        3,
        ["the server's count of output tokens fell from one chunk to the next"],
    )


ABSURD = [2**64 - 1, 2**63, 2**70, -1, 1.5, "12", True, [], {}, float("inf"), float("nan"), 10**500]


@pytest.mark.parametrize("absurd", ABSURD, ids=lambda value: str(value)[:9])
def test_what_is_no_number_is_unknown_and_said(absurd: Any) -> None:
    ending = ollama(eval_count=absurd, prompt_eval_count=5, eval_duration=absurd, total_duration=9)
    assert ending.server == {"prompt_eval_count": 5, "total_duration": 9}
    assert (ending.prompt_tokens, ending.output_tokens) == (5, None)
    assert [said.split(" is ")[0] for said in ending.notes] == ["'eval_count'", "'eval_duration'"]
    ending = v1(
        A,
        STOP
        | {
            "usage": {
                "prompt_tokens": 7,
                "completion_tokens": absurd,
                "prompt_tokens_details": {"cached_tokens": absurd},
            }
        },
    )
    assert (ending.prompt_tokens, ending.output_tokens) == (7, None)
    assert "'completion_tokens'" in ending.notes[0]
    ending = v1(A, STOP | {"timings": {"predicted_n": absurd, "prompt_n": 4, "prompt_ms": 1.5}})
    assert ending.output_tokens is None
    assert ending.server["timings"]["prompt_ms"] == 1.5


def test_a_number_beyond_a_double_is_unknown_and_said() -> None:
    ending = read(
        CHAT, '{"message":{"content":"a"},"done":false}\n{"done":true,"eval_count":1e400,"prompt_eval_count":5}\n'
    )
    assert (ending.server, ending.output_tokens, len(ending.notes)) == ({"prompt_eval_count": 5}, None, 1)


def test_a_prompt_without_tokens_is_unknown() -> None:
    ending = v1(A, STOP | {"usage": {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}})
    assert (ending.prompt_tokens, ending.output_tokens, len(ending.notes)) == (None, 2, 1)


# ---------------------------------------------------------------- what a server's durations tell


def test_durations_that_were_not_sent_are_unknown() -> None:
    hosted = ollama(total_duration=5_000_000_000, prompt_eval_count=26, eval_count=40).server
    said = metrics.server_said(hosted)
    assert math.isnan(said.load_s)
    assert math.isnan(said.prefill_s)
    assert math.isnan(metrics.queue_wait(0, 1, 2_000_000_000, said))
    whole = metrics.server_said(
        {"total_duration": 5, "load_duration": 1_000_000_000, "prompt_eval_duration": 500_000_000}
    )
    assert (whole.load_s, whole.prefill_s) == (1.0, 0.5)
    assert metrics.queue_wait(0, 1, 2_000_000_000, whole) == pytest.approx(0.5)
    assert metrics.server_said({"load_duration": 0, "prompt_eval_duration": 0})[:2] == (0.0, 0.0)


def test_timings_of_another_servers_are_not_llamacpps() -> None:
    """Of one that sends its headers at once (dasllama) the time to them was called a queue wait."""
    said = metrics.server_said({"timings": {"ttft_ms": 430.7, "gen_ms": 921.4}})
    assert not said.starts_with_headers
    assert math.isnan(metrics.queue_wait(0, 10**8, 4 * 10**8, said))
    assert metrics.server_said({"timings": {"prompt_n": 3}}).starts_with_headers


@pytest.mark.parametrize(
    ("usage", "timings", "cached"),
    [
        # before llama.cpp had cache_n; was "prefill runs at 657,000 prompt tokens/s", valid
        ({"prompt_tokens": 5000}, {"prompt_n": 10}, 4990),
        ({"prompt_tokens": 5000}, {"prompt_n": 5000}, 0),
        ({"prompt_tokens": 20}, {"prompt_n": 21}, 0),
        ({"prompt_tokens": 5000}, {"prompt_n": 10, "cache_n": 4980}, 4980),
        ({"prompt_tokens": 5000, "prompt_tokens_details": {"cached_tokens": 7}}, {"prompt_n": 10}, 7),
        ({"prompt_tokens": 5000}, {"prompt_ms": 3}, math.nan),
        ({}, {"prompt_n": 10}, math.nan),
    ],
)
def test_what_llamacpp_did_not_read_of_a_prompt_was_cached(
    usage: dict[str, Any], timings: dict[str, int], cached: float
) -> None:
    said = metrics.server_said({"usage": usage, "timings": timings})
    assert said.cached_tokens == pytest.approx(cached, nan_ok=True)


def test_headers_that_come_late_are_no_wait_while_the_prompt_is_read() -> None:
    """Of llama.cpp on a busy core, whose headers came with the first token: 13.4 ms of each TTFT "before the prompt is read"."""
    said = metrics.server_said({"timings": {"prompt_n": 97, "prompt_ms": 13.4}})
    assert metrics.queue_wait(0, 14_200_000, 15_000_000, said) == pytest.approx(0.0016)
    assert metrics.queue_wait(0, 500_000, 15_000_000, said) == pytest.approx(0.0005)


def test_vllm_says_how_long_it_took_where_it_is_started_so() -> None:
    """--enable-per-request-metrics (0.32): a request of a real one that waited 1.5 s for one of four places."""
    sent = {"queue_time_ms": 1512.5, "time_to_first_token_ms": 62.5, "generation_time_ms": 700.0, "mean_itl_ms": 10.0}
    ending = v1(A, STOP, {"choices": [], "usage": USAGE, "metrics": sent})
    said = V1.server_said(ending.server)
    assert (said.load_s, said.prefill_s, said.decode_s) == (0.0, 0.0625, 0.7)
    assert metrics.queue_wait(0, 1, 1_600_000_000, said) == pytest.approx(1.5125)
    # A time to first token that comes without a time in the queue may count from the request's arrival.
    for others in ({"cost": 1}, {"time_to_first_token_ms": 62.5}):
        assert "metrics" not in v1(A, STOP, {"choices": [], "usage": USAGE, "metrics": others}).server
        assert math.isnan(metrics.server_said({"metrics": others}).prefill_s)


def test_timings_say_what_they_hold() -> None:
    said = metrics.server_said({"timings": {"predicted_n": 3}})
    assert said.starts_with_headers
    assert all(map(math.isnan, said[:3]))
    said = metrics.server_said(
        {"timings": {"prompt_ms": 30.0, "cache_n": 0}, "usage": {"prompt_tokens_details": {"cached_tokens": 4}}}
    )
    assert (said.prefill_s, said.cached_tokens) == (0.03, 0)


@pytest.mark.parametrize("odd", [None, "x", True, [], -1, math.inf])
def test_no_shape_of_a_record_breaks_the_reading_of_durations(odd: Any) -> None:
    for server in (
        {"usage": odd},
        {"timings": odd},
        {"usage": {"prompt_tokens_details": odd}},
        {"timings": {"prompt_ms": odd, "cache_n": odd}},
        {"load_duration": odd, "prompt_eval_duration": odd},
        {"metrics": odd},
    ):
        assert all(map(math.isnan, metrics.server_said(server)[:3]))


def piece(text: str, key: str = "content") -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {key: text}, "finish_reason": None}]}


def counted(output: int, reasoning: int | None = None) -> dict[str, Any]:
    details = {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    usage = {"prompt_tokens": 7, "completion_tokens": output, "total_tokens": 7 + output}
    return {"choices": [], "usage": usage | details}


UNSENT: dict[str, tuple[list[dict[str, Any]], int, str | None, str | None]] = {
    "reasoning that is kept back": (
        [piece("t"), piece("u"), STOP, counted(1000, 998)],
        998,
        "sent no text of them",
        None,
    ),
    "reasoning that is streamed": (
        [piece("hm", "reasoning_content"), piece("t"), STOP, counted(2, 1)],
        0,
        None,
        None,
    ),
    "three reasoning tokens more than output": (
        [*[piece(" something")] * 60, STOP, counted(60, 63)],
        0,
        None,
        "more reasoning",
    ),
    "reasoning that is streamed as text": ([*[piece("a b ")] * 8, STOP, counted(8, 6)], 0, None, None),
    "pieces of several tokens": ([piece("abc def " * 40), STOP, counted(90)], 0, None, None),
    "more tokens than bytes": ([piece("abc"), piece("def"), STOP, counted(4000)], 4000, None, "more tokens than"),
    "no text at all": ([STOP, counted(4000)], 0, None, None),
    "a parser that keeps words back": (
        [*[piece(" something")] * 20, STOP, counted(100)],
        100,
        None,
        "more tokens than",
    ),
    "four tokens a piece": ([*[piece(" some words at once")] * 20, STOP, counted(100)], 0, None, None),
    "three tokens a letter": ([*[piece("\u6771")] * 40, STOP, counted(120)], 0, None, None),
    "figures, a token each": ([*[piece(" 31415")] * 20, STOP, counted(110)], 0, None, None),
    "a third of it in the first piece": (
        [piece(" word" * 40), *[piece(" word word")] * 40, STOP, counted(120)],
        39,
        "first piece of text holds many",
        None,
    ),
    "most of it in the first piece": (
        [piece(" word" * 80), *[piece(" word")] * 20, STOP, counted(100)],
        100,
        None,
        "most of the answer's tokens",
    ),
    "counts that grow before the text": (
        [
            *[{**piece(""), "usage": counted(i + 1)["usage"]} for i in range(80)],
            *[{**piece(" something"), "usage": counted(81 + i)["usage"]} for i in range(20)],
            STOP,
            counted(100),
        ],
        80,
        "before it sent text",
        None,
    ),
    "counts of nothing beside each piece, and the whole at the end": (
        [
            *[{**piece(" something"), "usage": {"prompt_tokens": 7, "completion_tokens": 0}} for _ in range(40)],
            STOP,
            counted(40),
        ],
        0,
        None,
        None,
    ),
    "counts that are refreshed now and then": (
        [*[{**piece(" something"), "usage": counted(1 + i // 5 * 5)["usage"]} for i in range(40)], STOP, counted(40)],
        0,
        None,
        None,
    ),
    "counts that grow after the text": (  # a parser that drops what the model wrote last
        [
            *[{**piece(" something"), "usage": counted(1 + i)["usage"]} for i in range(20)],
            *[{**piece(""), "usage": counted(21 + i)["usage"]} for i in range(80)],
            STOP,
            counted(100),
        ],
        80,
        "after its last text",
        None,
    ),
}


@pytest.mark.parametrize("name", UNSENT)
def test_tokens_that_were_counted_and_not_sent_are_in_no_decode_speed(name: str) -> None:
    rows, unsent, note, doubt = UNSENT[name]
    ending = v1(*rows)
    assert ending.unsent_tokens == unsent
    assert ending.output_tokens == rows[-1]["usage"]["completion_tokens"]
    for words, said in ((note, ending.notes), (doubt, ending.doubts)):
        assert len(said) == (words is not None)
        assert (words or "") in "".join(said)


def test_a_decode_speed_is_over_the_tokens_that_were_sent(tmp_path: Path) -> None:
    """1000 tokens, 995 of them reasoning that was kept back: five pieces 10 ms apart are 100 tokens/s, not 25,000."""
    chunks = [300_000 + 10_000 * i for i in range(5)]
    record = Record(
        id=0,
        level=0,
        seed=0,
        dialect="openai-chat",
        model="m",
        outcome=Outcome.OK,
        t_sched=0,
        t_send=0,
        t_first_token=300_000_000,
        t_end=400_000_000,
        chunks=chunks,
        output_tokens=1000,
        unsent_tokens=995,
        token_source="server",
    )
    writer = RecordWriter(tmp_path / "requests-0.jsonl", worker="0", driver="asyncio", clock=Clock(0, 0))
    writer.write(record)
    writer.write(dataclasses.replace(record, id=1, unsent_tokens=1000))  # which ones, nobody knows
    writer.close()
    run = frames.load(tmp_path)
    speeds = run.column("stream_tokens_per_s")
    assert speeds[0] == pytest.approx(100)
    assert math.isnan(speeds[1])
    assert run.column("output_tokens").tolist() == [1000, 1000]
    figures = Figures()
    figures.add(record, 0.0)
    assert figures.histograms["stream_tokens_per_s"].percentile(0.5) == pytest.approx(100, rel=0.01)
