"""Every rule of the verdict: each case spoils one thing in a valid run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.judged import Spoil, failed, judged, nothing, without_answer
from support.made_runs import CLOCK, MS, Made, grid, loading, recorded, write
from support.made_samples import add
from support.places import RECORDED_RUNS
from support.virtual_runs import Load, play

from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.analyse.verdict.verdict import reloaded
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.simulate.model.timing import StepLaw, Timing


def server(record: Record, **changes: Any) -> dict[str, Any]:
    return {"server": {**(record.server or {}), **changes}}


def test_a_clean_run_is_valid(tmp_path: Path) -> None:
    assert judged(tmp_path / "run", nothing) == ("valid", [])


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in RECORDED_RUNS.glob("ollama-*-c*.jsonl") if "mixed" not in path.stem)
)
def test_recorded_runs_of_real_ollama_are_valid(tmp_path: Path, name: str) -> None:
    """Ollama at times makes two tokens within 10 µs: they come in one read, and that is no fault of the client."""
    level = analyse(recorded(tmp_path / "run", [name])).summary["levels"][0]
    assert (level["verdict"], level["reasons"]) == ("valid", [])


def late(ms: float) -> Spoil:
    return lambda record: {"t_sched": record.t_sched - round(ms * MS)}


def unstamped(lag_us: int) -> Spoil:
    return lambda _: {"stamped": 0, "lag_us": lag_us}


def silent(tokens: int | None) -> Spoil:
    """Return an answer that ended well, and of which no text was seen."""
    return lambda record: {
        "t_first_token": None,
        "t_first_visible": None,
        "chunks": [],
        "server_us": None,
        "server_first": None,
        "output_tokens": tokens,
        "asked": None,
    }


@pytest.mark.parametrize(
    ("spoil", "every", "verdict", "said"),
    [
        (late(6), 1, "void", "schedule lag p99 is 6.00 ms, above the limit of 5 ms"),
        (late(3), 1, "suspect", "schedule lag p99 is 3.00 ms, above half the limit of 5 ms"),
        (
            late(6),
            3,
            "suspect",
            "(1 % of median TTFT or 5 ms); of 32 requests that is nearly the longest, which alone makes no level void",
        ),
        (late(2), 1, "valid", ""),
        (lambda r: {**late(60)(r), "connect_us": 58_000}, 1, "valid", ""),  # a server that keeps no connection
        (lambda _: {"late": 1}, 1, "void", "32 of 640 arrivals (5 %), above the limit of 1 %"),
        (lambda _: {"late": 1}, 7, "suspect", "above half the limit of 1 %"),
        (
            lambda _: {"late": 1, "late_tokens": 0, "late_gaps": 0},
            1,
            "valid",
            "",
        ),  # one stamped token each: all are right
        (
            lambda _: {"late": 1, "late_tokens": 4, "late_gaps": 5},
            8,
            "void",
            "the client read 16 tokens more than one token gap late, which spoils 20 of 608 gaps between tokens (3.3 %), above",
        ),
        (
            lambda _: {"late": 1, "late_tokens": 1, "late_gaps": 2},
            16,
            "suspect",
            "spoils 4 of 608 gaps between tokens (0.66 %)",
        ),
        (lambda _: {"late": 1, "late_tokens": 9, "late_gaps": 10}, 32, "suspect", "spoils 10 of 608 gaps"),
        (lambda _: {"late": 1, "late_tokens": 1, "late_gaps": 2}, 32, "valid", ""),
        (unstamped(6000), 1, "void", "no kernel stamps and client lag p99 is 6.00 ms"),
        (unstamped(3000), 1, "suspect", "no kernel stamps"),
        (unstamped(1000), 1, "valid", ""),
        (lambda _: {"lag_us": 6000}, 1, "valid", ""),  # the kernel's stamps are right all the same
        (lambda r: server(r, load_duration=25 * MS), 8, "valid", ""),
        (lambda _: {"first_coalesced": True}, 4, "suspect", "one read with a later one in 8 of 32 requests (25 %)"),
        (lambda _: {"output_tokens": 12}, 1, "suspect", "output length is not as asked: 12.0 tokens a request instead"),
        (
            lambda _: {"output_tokens": 12, "token_source": "chunks"},
            1,
            "suspect",
            "12.0 pieces of text a request instead of 20.0 tokens",
        ),
        (lambda _: {"prompt_tokens": 140}, 1, "suspect", "input length is not as asked: 140.0"),
        (
            lambda r: {"asked_input": None, "prompt_tokens": 4096, **server(r, prompt_eval_duration=2000 * MS)},
            1,
            "suspect",
            "fills the context of 4096 tokens in 32",
        ),
        (
            lambda r: {"asked": None, "output_tokens": 20_480},
            2,
            "suspect",
            "prompt and answer pass the context of 4096 tokens in 16 of 32",
        ),
        (lambda _: {"asked": None, "output_tokens": 3997}, 1, "valid", ""),  # the last token is in no context
        (lambda r: server(r, prompt_eval_duration=2 * MS), 1, "suspect", "as where a prefix cache answers, unasked"),
        (  # was "prefill took less than a tenth of the usual": only the warm-ups were slow, beside other work
            lambda r: server(r, prompt_eval_duration=(4 if r.id % 4 == 1 else 7) * MS),
            1,
            "valid",
            "",
        ),
        (without_answer, 1, "void", "no request ended well (32 http_error)"),
        (without_answer, 8, "suspect", "4 of 32 requests failed (4 http_error), above the allowed 0 %"),
        (failed("HTTP 503: overloaded"), 8, "suspect", "failed (4 http_error: HTTP 503: overloaded), above"),
        (failed("HTTP 503: overloaded"), 1, "void", "no request ended well (32 http_error: HTTP 503: overloaded)"),
        (
            failed("HTTP 503: overloaded"),
            2,
            "void",
            "16 of 32 requests failed (16 http_error: HTTP 503: overloaded): half or",
        ),
        (
            lambda r: {**without_answer(r), "outcome": Outcome.CLIENT_ERROR, "error": "KeyError: 'x'."},
            32,
            "void",
            "loadtest itself failed over 1 of 36 requests: KeyError: 'x'",
        ),
        (
            lambda _: {"doubts": ["usage contradicts itself."]},
            8,
            "suspect",
            "4 of 32 answers: usage contradicts itself",
        ),
        (
            lambda r: {"doubts": [f"total {r.id} is not the sum"]},
            8,
            "suspect",
            "4 of 32 answers: for example, total 16 is not the sum",
        ),
        (lambda _: {"notes": ["an unknown key: sound"]}, 1, "valid", ""),
        (lambda _: {"send_us": 6000}, 1, "suspect", "sending took 6.00 ms at p99, above the limit of 5 ms"),
        (lambda _: {"send_us": 4000}, 1, "valid", ""),
        (
            silent(20),
            16,
            "void",
            "in 2 of 32 answers the server counted 20 tokens each on average, and loadtest understood no",
        ),
        (silent(1), 16, "suspect", "2 of 32 answers ended well without any text (finish_reason length)"),
        (silent(None), 16, "suspect", "2 of 32 answers ended well without any text"),
        (silent(0), 2, "void", "any text (finish_reason length): TTFT and speeds are of the others"),
        (silent(0), 1, "void", "32 of 32 answers ended well without any text (finish_reason length): there is no TTFT"),
        (lambda r: {**silent(20)(r), "dialect": "openai-embeddings"}, 1, "valid", ""),
        (lambda _: {"outcome": Outcome.CANCELLED}, 8, "valid", ""),
    ],
)
def test_each_rule(tmp_path: Path, spoil: Spoil, every: int, verdict: str, said: str) -> None:
    found, reasons = judged(tmp_path / "run", spoil, every=every)
    assert (found, len(reasons)) == (verdict, 1 if said else 0), reasons
    assert not said or said in reasons[0]


def test_answers_that_failed_are_none_whose_ttft_is_given(tmp_path: Path) -> None:
    """Was "TTFT and speeds are of the others" where no other answer had ended well."""
    _, reasons = judged(
        tmp_path / "run", lambda r: silent(0)(r) if r.id % 2 else {"outcome": Outcome.TRUNCATED}, every=1
    )
    assert any(reason.endswith("any text (finish_reason length): there is no TTFT and no speed") for reason in reasons)


def test_the_schedule_lag_limit_grows_with_ttft(tmp_path: Path) -> None:
    verdict, reasons = judged(tmp_path / "run", late(6), made=Made(prefill_ms=2000))
    assert (verdict, reasons) == ("valid", [])


def test_first_tokens_that_the_server_made_together_are_not_coalesced(tmp_path: Path) -> None:
    def together(record: Record) -> dict[str, Any]:
        assert record.server_us is not None
        return {"first_coalesced": True, "server_us": [0, 5, *record.server_us[2:]]}

    assert judged(tmp_path / "run", together) == ("valid", [])


def test_a_clock_that_jumped_voids_the_run(tmp_path: Path) -> None:
    assert judged(tmp_path / "run", nothing, clock_steps=1)[0] == "void"
    assert judged(tmp_path / "two", nothing, client={"clock_steps": [[1, 2], [3, 4]]})[1] == [
        "a clock of the client jumped 2 times during the run"
    ]


def test_a_busy_client_is_suspect(tmp_path: Path) -> None:
    samples = [{"t": i * 100 * MS, "level": 0, "cpu": 0.97} for i in range(5)]
    verdict, reasons = judged(tmp_path / "run", nothing, samples=samples)
    assert verdict == "suspect"
    assert "97 % of a core" in reasons[0]


@pytest.mark.parametrize(
    ("gap_s", "at_s", "verdict", "said"),
    [
        (0.9, 60, "valid", ""),
        (1.2, 60, "suspect", "the client stood still for up to 1.20 s (1 time) and sent and read nothing then: 0.7"),
        (3.0, 60, "void", "of the level's time, above the limit of 1 %"),
        (3.0, 1, "valid", ""),  # before anything was measured
        (3.0, 300, "valid", ""),  # and after
    ],
)
def test_a_client_that_stood_still_is_doubted(
    tmp_path: Path, gap_s: float, at_s: float, verdict: str, said: str
) -> None:
    """Its users send nothing meanwhile, so that no request says what they would have felt."""
    samples = [{"t": round(at_s * 1000) * MS, "level": 0, "loop_gap_us": round(gap_s * 1e6), "cpu": 0.1}]
    found, reasons = judged(tmp_path / "run", nothing, made=Made(prefill_ms=20_000), samples=samples)
    assert (found, len(reasons)) == (verdict, 1 if said else 0), reasons
    assert not said or said in reasons[0]


def test_one_of_several_processes_that_stood_still_is_weighed_by_its_share(tmp_path: Path) -> None:
    levels, truth = grid(Made(prefill_ms=20_000), (4,))
    path = write(tmp_path / "run", truth.records, levels)
    for worker in range(4):
        writer = RunFolder.open(path).sample_writer(CLOCK, source=f"driver-{worker}")
        writer.write({"t": 60_000 * MS, "level": 0, "loop_gap_us": 2_000_000 if worker == 3 else 2_500, "cpu": 0.1})
        writer.close()
    level = analyse(path).summary["levels"][0]
    assert level["verdict"] == "suspect"
    assert "of the time of the level's 4 processes" in level["reasons"][0]
    assert "a process of the client stood still for up to 2.00 s (1 time) and sent" in level["reasons"][0]


def reloading(path: Path, *, load_ms: int, warmup: int = 1, **facts: Any) -> tuple[str, list[str]]:
    """Judge a run of one user, nine requests, of which the second to be measured waits for a load."""
    levels, truth = grid(Made(), (1,))
    records = loading(truth.records, [2 * warmup], load_ms=load_ms)
    records = [dataclasses.replace(record, warmup=record.id < warmup) for record in records]
    level = analyse(write(path, records, levels, **facts)).summary["levels"][0]
    return level["verdict"], level["reasons"]


def test_a_reload_voids_a_level(tmp_path: Path) -> None:
    verdict, (reason,) = reloading(tmp_path / "run", load_ms=800)
    assert verdict == "void"
    assert "the model was reloaded in mid-run: 1 of 8 requests waited up to 800 ms for the model to load" in reason
    assert reloading(tmp_path / "short", load_ms=25) == ("valid", [])


def test_nothing_is_reloaded_while_other_streams_of_the_model_are_served(tmp_path: Path) -> None:
    """A real Ollama said a load of 0.30 s of one request of six sent at once; the others' loads had taken 12 to 39 ms."""
    assert judged(tmp_path / "run", lambda r: server(r, load_duration=300 * MS), every=8) == ("valid", [])


def test_streams_of_another_model_do_not_hide_a_reload(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,))
    records = [
        dataclasses.replace(record, **server(record, load_duration=800 * MS), model="cold")
        if not record.warmup and record.id == 16
        else record
        for record in truth.records
    ]
    run = frames.load(write(tmp_path / "run", records, levels))
    assert list(reloaded(run, run.good(0))["model"]) == ["cold"]


def test_a_simulated_server_at_speed_reloads_faster(tmp_path: Path) -> None:
    simulated = {"kind": "ollama", "context": None, "simulated": {"profile": "x", "speed": 20.0}}
    assert reloading(tmp_path / "run", load_ms=40, server=simulated)[0] == "void"
    assert reloading(tmp_path / "real", load_ms=40)[0] == "valid"


def test_a_load_without_warm_up_is_suspect_not_void(tmp_path: Path) -> None:
    verdict, (reason,) = reloading(tmp_path / "run", load_ms=900, warmup=0)
    assert verdict == "suspect"
    assert reason.startswith("the model was loaded inside the measurement: 1 of 9 requests")
    # the warm-up waited for the same load, as in an open loop: was "reloaded in mid-run", void
    levels, truth = grid(Made(slots=16), (8,), each=4)
    records = [
        dataclasses.replace(record, warmup=record.id == 0) for record in loading(truth.records, range(8), load_ms=900)
    ]
    level = analyse(write(tmp_path / "open", records, levels)).summary["levels"][0]
    assert level["verdict"] == "suspect"
    assert level["reasons"][0].startswith("the model was loaded inside the measurement: 7 of 39 requests")


def test_cached_prompt_tokens_are_suspect_unless_asked_for(tmp_path: Path) -> None:
    cached = {"usage": {"prompt_tokens_details": {"cached_tokens": 90}}}
    verdict, reasons = judged(tmp_path / "run", lambda _: {"server": cached, "dialect": "openai-chat"})
    assert verdict == "suspect"
    assert "prefix cache answered unasked: in 32 of 32" in reasons[0]
    warm = Scenario(name="warm", warm_cache=True).to_dict()
    spoil: Spoil = lambda _: {"server": cached}  # noqa: E731
    assert judged(tmp_path / "warm", spoil, scenario=warm) == ("valid", [])


def test_a_cache_that_the_servers_own_counters_show_is_suspect(tmp_path: Path) -> None:
    """Answers of vLLM count no cached tokens unless it is told to: a second run with one --seed was valid."""
    path = tmp_path / "run"
    judged(path, lambda _: {"server": {"usage": {}}, "dialect": "openai-chat"})
    others = 20_000  # prompt tokens a second: far more than the level's own, so the hits may be others'
    for queries, hits, verdict in ((1700, 1600, "suspect"), (1700, 10, "valid"), (others, 10_000, "valid")):
        counts = {"vllm:prefix_cache_queries_total": queries, "vllm:prefix_cache_hits_total": hits}
        add(path, "vllm", [{"t": t, "values": {name: t * each for name, each in counts.items()}} for t in range(9)])
        level = analyse(path).summary["levels"][0]
        assert level["verdict"] == verdict, level["reasons"]
        assert any(
            "the prefix cache answered unasked: the server itself counted" in each for each in level["reasons"]
        ) == (verdict == "suspect")


def test_long_prompts_after_a_short_one_are_not_cached(tmp_path: Path) -> None:
    """Was "prefill took less than a tenth of the usual": the first prompt, of 40 tokens, took a whole step of 60 ms."""
    timing = Timing(step=StepLaw(0.06, 0.005), prefill_s=0.0001)
    lengths = [40, *[3000] * 11]
    loads = [Load(users=1, requests=1, prompt=(each, each), output=(4, 4)) for each in lengths]
    played = play(timing, loads, slots=2)
    records = [dataclasses.replace(record, level=0) for record in played.records if not record.warmup]
    level = {**played.levels[0], "requests": len(records), "ended_ns": played.levels[-1]["ended_ns"]}
    found = analyse(write(tmp_path / "run", records, [{**level, "input_tokens": None, "output_tokens": None}]))
    assert found.summary["levels"][0]["reasons"] == []


def test_an_allowed_share_of_errors_is_valid(tmp_path: Path) -> None:
    scenario = Scenario(name="made", max_error_ratio=0.2).to_dict()
    assert judged(tmp_path / "run", without_answer, every=8, scenario=scenario) == ("valid", [])


def test_a_queue_that_grows_in_an_open_loop_is_suspect(tmp_path: Path) -> None:
    """Requests every 10 ms to a server that takes 20 ms each: the queue only grows."""
    template = grid(Made(), (1,))[1].records[0]
    names = ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible")
    records = [
        dataclasses.replace(
            template,
            id=i,
            warmup=False,
            t_end=(i + 1) * 20 * MS + 300 * MS,
            **{name: getattr(template, name) + i * 10 * MS for name in names},
        )
        for i in range(60)
    ]
    level = {"index": 0, "concurrency": None, "rate": 100.0, "input_tokens": 100, "output_tokens": 20, "words": None}
    reasons = analyse(write(tmp_path / "run", records, [level])).summary["levels"][0]["reasons"]
    assert any("requests were still piling up" in reason for reason in reasons)


def test_the_gravest_reason_comes_first(tmp_path: Path) -> None:
    def spoil(record: Record) -> dict[str, Any]:
        return {**late(3)(record), **(server(record, load_duration=800 * MS) if record.id % 8 == 0 else {})}

    verdict, reasons = judged(tmp_path / "run", spoil)
    assert verdict == "void"
    assert [reason.split()[0] for reason in reasons] == ["the", "schedule"]


def test_a_literal_prompt_has_an_answer_of_its_own_length(tmp_path: Path) -> None:
    scenario = Scenario(name="made", prompt="tell a story").to_dict()
    assert judged(tmp_path / "run", lambda _: {"output_tokens": 12}, scenario=scenario) == ("valid", [])
    found, reasons = judged(tmp_path / "longer", lambda _: {"output_tokens": 60}, scenario=scenario)
    assert found == "suspect", reasons


def test_one_slip_does_not_void_a_small_level(tmp_path: Path) -> None:
    """Of 32 requests p99 is the worst one, and of 32 arrivals one is 3 %: neither is evidence enough to void."""
    verdict, reasons = judged(tmp_path / "lag", late(40), every=32)
    assert verdict == "suspect", reasons
    assert judged(tmp_path / "one", lambda _: {"late": 1, "arrivals": 1}, every=32)[0] == "valid"
    assert judged(tmp_path / "two", lambda _: {"late": 1, "arrivals": 1}, every=16)[0] == "valid"
    assert judged(tmp_path / "all", lambda _: {"late": 1, "arrivals": 2})[0] == "void"


def test_a_level_that_never_counted_says_why(tmp_path: Path) -> None:
    def only_warm(record: Record) -> dict[str, Any]:
        return {"warmup": True}

    assert judged(tmp_path / "run", only_warm, state="interrupted")[1] == [
        "the run ended before a request of this level counted"
    ]
