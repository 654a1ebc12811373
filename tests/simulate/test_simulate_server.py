"""The simulated server on the wire: byte shapes as recorded from a real Ollama, durations, truth."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.simulated import STEP_MS, Answer, ask, chat, raw, recorded, request, run, shape, take_apart, write_profile

from loadtest.errors import ScenarioError
from loadtest.measure.interruption import SIGNALS
from loadtest.simulate.api.http1 import ClientConnection
from loadtest.simulate.api.request_bodies import RefusedError, read_ollama_request
from loadtest.simulate.api.text import ANSWER, pieces
from loadtest.simulate.profiles import PROFILES, load_profile
from loadtest.simulate.server import ServerOptions, SimulatedServer


@pytest.fixture
def profile(tmp_path: Path) -> str:
    return write_profile(tmp_path)


# -- the wire ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("chat", "chat-one-token", "chat-not-streamed", "generate", "generate-raw", "load-only"),
        *("v1-chat", "v1-chat-no-usage", "v1-completions", "v1-models"),
        *("version", "tags", "ps", "show"),
        *("unknown-model", "v1-unknown-model", "bad-option", "bad-json", "no-such-path"),
    ],
)
def test_answers_have_the_shape_of_a_real_ollamas(profile: str, name: str) -> None:
    stream, real = recorded(name)
    sent = request(stream["method"], stream["path"], stream["bodies"][0])
    made = take_apart(run(profile, lambda server: raw(server, sent)))

    assert made.status == real.status
    assert made.headers[-1] == ("Loadtest-Simulated", "profile=test; speed=1")
    assert [key for key, _ in made.headers[:-1]] == [key for key, _ in real.headers]
    assert dict(made.headers)["Content-Type"] == dict(real.headers)["Content-Type"]
    assert made.whole
    assert not made.rest
    if name in ("no-such-path", "unknown-model", "v1-unknown-model", "bad-option", "bad-json"):
        assert made.body == real.body
        return
    sse = b"data: " in real.body
    ours, theirs = (made.events, real.events) if sse else (made.lines, real.lines)
    assert len(made.chunks) == len(real.chunks)
    assert [shape(entry) for entry in ours] == [shape(entry) for entry in theirs]
    for entry, twin in zip(made.chunks, real.chunks, strict=True):
        assert entry.count(b"\n") == twin.count(b"\n")  # a line a chunk, or the last three events in one
        assert entry.endswith(b"\n") == twin.endswith(b"\n")
    assert made.body.endswith(b"data: [DONE]\n\n") == real.body.endswith(b"data: [DONE]\n\n")
    for key in ("object", "system_fingerprint", "done", "done_reason", "eval_count"):
        assert [entry.get(key) for entry in ours] == [entry.get(key) for entry in theirs]


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_turn(profile: str) -> None:
    _, real = recorded("chat-keepalive")
    data = request("POST", "/api/chat", json.dumps({"model": "tiny", **chat(3)}), close=False)
    both = run(profile, lambda server: raw(server, data + request("GET", "/api/version")))
    first = take_apart(both)
    assert [key for key, _ in first.headers][:-1] == [key for key, _ in real.headers]
    assert first.lines[-1]["eval_count"] == 3
    second = take_apart(first.rest)
    assert second.lines == [{"version": "0.24.0"}]
    assert ("Connection", "close") in second.headers


def test_a_request_split_anywhere_and_expecting_100_continue_is_read(profile: str) -> None:
    body = json.dumps({"model": "tiny", **chat(2)})
    data = request("POST", "/api/chat", body).replace(b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n")

    async def work(server: SimulatedServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for at in range(0, len(data), 7):
            writer.write(data[at : at + 7])
            await writer.drain()
        received = await reader.read()
        writer.close()
        return received

    received = run(profile, work)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert len(take_apart(received.partition(b"\r\n\r\n")[2]).lines) == 3


@pytest.mark.parametrize("leaves", [False, True])
def test_what_a_slow_client_has_no_room_for_follows_as_it_reads_unless_it_leaves(*, leaves: bool) -> None:
    data = random.Random(1).randbytes(1 << 20)

    async def work() -> bytes:
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listener.getsockname())
            client.setblocking(False)
            ours, _ = listener.accept()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            connection = ClientConnection(ours, lambda *_: None, lambda _: gone.set())
            connection.write(data)
            connection.write(b"end")
            connection.finish(close=True)
            assert not connection.closed
            received = await loop.sock_recv(client, 1)
            while not leaves and (more := await loop.sock_recv(client, 1 << 16)):
                received += more
            client.close()  # what it has not read makes this a reset
            await gone.wait()
            return received

    assert asyncio.run(work()) == (data[:1] if leaves else data + b"end")


def test_bad_http_gets_400_and_a_known_path_with_another_method_405(profile: str) -> None:
    assert run(profile, lambda server: raw(server, b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")
    assert take_apart(run(profile, lambda server: raw(server, request("DELETE", "/api/chat")))).status.endswith(
        "405 Method Not Allowed"
    )
    ping = take_apart(run(profile, lambda server: raw(server, request("GET", "/"))))
    assert ping.body == b"Ollama is running"


# -- durations, lengths, the model ---------------------------------------------------------------------------------------


def test_durations_and_stamps_are_what_a_real_ollama_would_report(profile: str) -> None:
    answer = run(profile, lambda server: ask(server, "/api/chat", **chat(20)))
    last = answer.lines[-1]
    assert last["eval_count"] == 20
    assert last["eval_duration"] == 19 * STEP_MS * 1_000_000  # n − 1 intervals
    parts = last["load_duration"] + last["prompt_eval_duration"] + last["eval_duration"]
    assert last["total_duration"] >= parts
    stamps = [datetime.fromisoformat(line["created_at"]) for line in answer.lines]
    assert stamps == sorted(stamps)
    # Half of it: on a busy machine the first line may be late, and the others are not late with it.
    assert (stamps[-1] - stamps[0]).total_seconds() >= 19 / 2 * STEP_MS / 1e3


def test_speed_divides_every_duration(profile: str) -> None:
    slow = run(profile, lambda server: ask(server, "/api/chat", **chat(9)))
    fast = run(profile, lambda server: ask(server, "/api/chat", **chat(9)), speed=4.0)
    assert fast.lines[-1]["eval_duration"] * 4 == slow.lines[-1]["eval_duration"]
    assert fast.lines[-1]["prompt_eval_duration"] * 4 == slow.lines[-1]["prompt_eval_duration"]
    assert dict(fast.headers)["Loadtest-Simulated"] == "profile=test; speed=4"


def test_an_answer_that_ends_by_itself_counts_the_end_token_but_does_not_send_it(profile: str) -> None:
    answer = run(profile, lambda server: ask(server, "/api/chat", **chat(None, "tell a story in 20 words:")))
    last = answer.lines[-1]
    assert last["done_reason"] == "stop"
    assert last["eval_count"] == len(answer.lines)  # chunks + the end token = lines, the final one included
    assert 20 <= last["eval_count"] <= 27


def test_openai_ignores_max_completion_tokens_and_heeds_max_tokens(profile: str) -> None:
    messages = [{"role": "user", "content": "say something in 10 words"}]

    def usage(**fields: Any) -> int:
        answer = run(profile, lambda server: ask(server, "/v1/chat/completions", messages=messages, **fields))
        tokens = answer.lines[-1]["usage"]["completion_tokens"]
        assert isinstance(tokens, int)
        return tokens

    assert usage(max_tokens=3) == 3
    assert usage(max_completion_tokens=3) > 8


def test_a_repeated_prompt_is_served_from_the_cache_and_a_long_one_is_cut(profile: str) -> None:
    async def work(server: SimulatedServer) -> list[dict[str, Any]]:
        content = "the same prompt of some forty words " * 10
        prompts = (content, content, "word " * 900)
        return [(await ask(server, "/api/chat", **chat(1, prompt))).lines[-1] for prompt in prompts]

    first, again, long = run(profile, work, num_ctx=512)
    assert first["prompt_eval_count"] == again["prompt_eval_count"] > 70
    assert again["prompt_eval_duration"] == STEP_MS * 1_000_000 < first["prompt_eval_duration"]
    assert long["prompt_eval_count"] == 512


def test_a_conversations_history_is_cached_up_to_the_new_question(profile: str) -> None:
    """The slot holds the answer too, as the tokens that its text is sent back as."""

    async def talk(server: SimulatedServer) -> tuple[dict[str, Any], dict[str, Any]]:
        said = [{"role": "user", "content": "The pilot called out the depth. What happened?"}]
        ask_for = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 30}
        first = (await ask(server, "/v1/chat/completions", messages=said, **ask_for)).events
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in first if event["choices"])
        said += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
        second = (await ask(server, "/v1/chat/completions", messages=said, **ask_for)).events
        return first[-1]["usage"], second[-1]["usage"]

    first, second = run(profile, talk)
    held = second["prompt_tokens_details"]["cached_tokens"]
    assert first["prompt_tokens"] + 28 <= held < second["prompt_tokens"]
    assert second["prompt_tokens"] - held <= 16


def test_first_use_and_another_context_load_the_model_and_ps_tells(profile: str) -> None:
    async def work(server: SimulatedServer) -> list[Any]:
        async def ps() -> list[Any]:
            answer = take_apart(await raw(server, request("GET", "/api/ps")))
            return [(model["name"], model["context_length"]) for model in answer.lines[0]["models"]]

        seen: list[Any] = [await ps()]
        for num_ctx in (4096, 4096, 8192):
            fields = chat(1)
            fields["options"]["num_ctx"] = num_ctx
            answer = await ask(server, "/api/chat", **fields)
            seen.append(answer.lines[-1]["load_duration"] >= 50_000_000)
            seen.append(await ps())
        await ask(server, "/api/chat", messages=[], keep_alive=0)
        return [*seen, await ps()]

    loaded = [("tiny:latest", 4096)]
    assert run(profile, work, warm=False) == [[], True, loaded, False, loaded, True, [("tiny:latest", 8192)], []]


def test_more_than_max_queue_waiting_for_a_load_are_refused_with_503(profile: str) -> None:
    async def work(server: SimulatedServer) -> list[Answer]:
        return list(await asyncio.gather(*(ask(server, "/api/chat", **chat(1)) for _ in range(5))))

    answers = run(profile, work, warm=False, max_queue=2)
    assert (
        sorted(answer.status for answer in answers)
        == ["HTTP/1.1 200 OK"] * 2 + ["HTTP/1.1 503 Service Unavailable"] * 3
    )
    _, real = recorded("chat-busy-2")
    assert next(answer.body for answer in answers if "503" in answer.status) == real.body


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"model": ""}, 400, "model is required"),
        ({"model": "tiny", "options": {"num_predict": "5"}}, 500, 'option "num_predict" must be of type integer'),
        ({"model": "tiny", "options": {"temperature": True}}, 500, 'option "temperature" must be of type float32'),
        ({"model": "tiny:7b"}, 404, "model 'tiny:7b' not found"),
    ],
)
def test_refusals_are_in_ollamas_words(profile: str, fields: dict[str, Any], status: int, sentence: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        read_ollama_request("chat", fields, load_profile(profile), random.Random(0))
    assert refusal.value.args == (status, sentence)


@pytest.mark.parametrize(
    ("asked", "limit"), [(-1, 40960), (0, 40960), (-2, 40960), (7, 7), (40960, 40960), (99999, 40960)]
)
def test_num_predict_without_a_limit_means_ten_contexts(profile: str, asked: int, limit: int) -> None:
    fields = {"model": "tiny", **chat(asked)}
    assert read_ollama_request("chat", fields, load_profile(profile), random.Random(0)).limit == limit


# -- slots, truth --------------------------------------------------------------------------------------------------------


def test_the_truth_log_tells_each_request_and_slots_are_respected(profile: str, tmp_path: Path) -> None:
    async def work(server: SimulatedServer) -> list[Answer]:
        return list(await asyncio.gather(*(ask(server, "/api/chat", **chat(8, f"nonce {i} x")) for i in range(5))))

    run(profile, work, slots=2, truth=tmp_path / "truth.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert {row["prompt"] for row in rows} == {f"nonce {i} x" for i in range(5)}
    assert {row["output_tokens"] for row in rows} == {8}
    spans = []
    for row in rows:
        instants = row["monotonic_ns"]
        order = ["arrived", "slot_won", "prefill_start", "first_token", "last_token", "end"]
        assert [name for name in sorted(instants, key=instants.__getitem__) if name in order] == order
        offsets = [row["wall_ns"][name] - instants[name] for name in order]
        assert max(offsets) == min(offsets)
        assert row["late_max_us"] >= row["late_mean_us"] >= 0
        spans.append((instants["slot_won"], instants["slot_freed"]))
    assert {row["stamped"] for row in rows} <= {True, False}  # the kernel may begin to stamp after the last of them
    assert max(sum(start <= won < freed for start, freed in spans) for won, _ in spans) == 2


def test_a_client_that_goes_away_frees_its_slot(profile: str, tmp_path: Path) -> None:
    async def work(server: SimulatedServer) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("POST", "/api/chat", json.dumps({"model": "tiny", **chat(40000)})))
        await reader.readuntil(b'"done":false')
        waiting = asyncio.create_task(ask(server, "/api/chat", **chat(2)))
        writer.close()
        return await waiting

    answer = run(profile, work, slots=1, truth=tmp_path / "truth.jsonl")
    assert answer.lines[-1]["eval_count"] == 2
    outcomes = [json.loads(line)["outcome"] for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert outcomes == ["cancelled", "ok"]


# -- profiles, text, the process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_survive_the_way_through_a_file(name: str, tmp_path: Path) -> None:
    path, profile = tmp_path / "p.json", PROFILES[name]
    fields = dataclasses.asdict(profile)
    if table := profile.timing.step.table:
        fields["timing"]["step"] = {"table": {str(streams): list(values) for streams, values in table}}
    else:
        del fields["timing"]["step"]["table"]
    path.write_text(json.dumps(fields))
    assert load_profile(str(path)) == profile


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "does not parse"),
        ("[]", "makes no sense"),
        ("{}", "timing needs step and prefill_s"),
        ('{"timing": {"step": {"base_s": 0}, "prefill_s": 0}}', "longer than 0 s"),
        ('{"timing": {"step": {"table": {"1": "x"}}, "prefill_s": 0}}', "makes no sense"),
        ('{"timings": {}}', "unknown key 'timings'"),
        ('{"slots": 0, "timing": {"step": {"base_s": 1}, "prefill_s": 0}}', "slots is 0"),
        ('{"timing": {"step": {"base_s": 1}, "prefill_s": "x"}}', "prefill_s is 'x'"),
        ('{"timing": {"step": {"base_s": 1}, "prefill_s": 0, "first_token_s": [1]}}', "makes no sense"),
        ('{"model": {"heads": 0}, "timing": {"step": {"base_s": 1}, "prefill_s": 0}}', "heads is 0"),
    ],
)
def test_a_profile_that_makes_no_sense_is_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(ScenarioError, match=sentence):
        load_profile(str(path))


def test_an_unknown_profile_names_the_known_ones_and_a_taken_port_is_said(profile: str) -> None:
    with pytest.raises(ScenarioError, match="quick"):
        load_profile("nothing")

    async def twice(server: SimulatedServer) -> None:
        async with SimulatedServer(ServerOptions(profile=profile, port=server.port)):
            pass

    with pytest.raises(ScenarioError, match="cannot listen"):
        run(profile, twice)


def test_token_estimates_are_near_cl100k_and_answers_never_repeat_a_piece_31_times() -> None:
    assert len(pieces("".join(ANSWER[:600]))) == pytest.approx(605, rel=0.05)  # cl100k_base says 605
    assert len(pieces("a3f9c2e1 Tell me a story about the sea.")) == pytest.approx(16, abs=2)  # cl100k_base: 16
    assert all(left != right for left, right in itertools.pairwise(ANSWER))


@pytest.mark.parametrize("number", SIGNALS)
def test_serve_prints_its_address_and_ends_cleanly_on_each_signal(number: signal.Signals) -> None:
    code = f"import signal; signal.signal({number:d}, signal.SIG_DFL)\n"  # nohup may have had it ignored
    code += "from loadtest.simulate.server import *; serve_forever(ServerOptions())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == 0
    assert line.startswith("listening on http://127.0.0.1:")
