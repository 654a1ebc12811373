"""How each client is run on the same work, and how what it says it saw is read back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson
from rig import HERE, MODEL, PYTHON, ROOT, WORDS, Array, Meter, Truth, Work, last_json

from loadtest.analyse.summary import analyse
from loadtest.doubts import VOID
from loadtest.run_folder import RunFolder

VENVS = Path.home() / ".cache/loadtest-peers"
PROMPT_BYTES = 300  # as long as the other clients' prompts
PACKAGES = {
    "aiohttp": ("aiohttp", "uvloop"),
    "aiperf": ("aiperf",),
    "guidellm": ("guidellm",),
    "vllm": ("vllm", "pandas"),  # it reads its prompts with pandas, which it does not ask for
    "evalscope": ("evalscope[perf]",),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client says it saw of the requests that went well; ms, and the monotonic instant (ns) when it was done."""

    ok: int
    lost: int
    ttft: Array
    gaps: Array
    done_ns: float | None = None  # None: when the server had written its last
    cpu_s: float | None = None  # where the client measures its own streaming part
    void: float = float("nan")  # 1 where the client says that it could not measure this, 0 where it says that it could


@dataclass(frozen=True, slots=True)
class Run:
    """One client's run: what to measure, where the server is, and where files go."""

    work: Work
    url: str
    folder: Path
    programs: dict[str, Path]

    @property
    def out(self) -> Path:
        return self.folder / "out"


@dataclass(frozen=True, slots=True)
class Client:
    """A way to load the server; `label` is its name in tables and charts. `slow` ones are installed and run only when named."""

    label: str
    command: Callable[[Run], Iterable[object]]
    read: Callable[[Run, Meter, Truth], Seen]
    slow: bool = False
    environment: Callable[[Run], dict[str, str]] = lambda _: {}


def python_of(venv: str) -> Path:
    """Return the Python of a venv with the named client in it, made when it is not there yet."""
    python = VENVS / venv / "bin/python"
    ready = VENVS / venv / ".ready"
    if not ready.exists():
        print(f"Installing {venv} into {VENVS / venv} …", flush=True)
        subprocess.run([PYTHON, "-m", "venv", VENVS / venv], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, *PACKAGES[venv]], check=False).returncode:
            sys.exit(f"{venv} could not be installed, pip says why above; name the other clients to go without it.")
        ready.touch()
    return python


def program_of(name: str) -> Path:
    """Return a program that its users have on PATH already, or that of its venv."""
    there = shutil.which(name)
    return Path(there) if there else python_of(name).parent / name


def _ms(values: Iterable[float]) -> Array:
    return np.fromiter(values, dtype=float)


# -- the floor ------------------------------------------------------------------------------------------------------


def _floor(run: Run) -> list[object]:
    port = run.url.rpartition(":")[2]
    return [run.programs["floor"], port, run.work.streams, run.work.requests]


def _read_floor(_run: Run, meter: Meter, _truth: Truth) -> Seen:
    said = last_json(meter.output)
    return Seen(said["ok"], said["lost"], _ms(said["ttft_ms"]), _ms([]), cpu_s=said["cpu_s"])


# -- this project ---------------------------------------------------------------------------------------------------


def _asyncio(run: Run) -> list[object]:
    work = run.work
    lengths = ["--input-tokens", 64, "--output-tokens", work.tokens, "--warmup", 0]
    load = ["--concurrency", work.streams, "--requests", work.total, "--api", work.api]
    return [PYTHON, "-m", "loadtest", "run", "--url", run.url, *load, *lengths, "--out", run.out]


def _locust(run: Run) -> list[object]:
    work = run.work
    load = ["-u", work.streams, "-r", work.streams, "-t", max(round(work.seconds * 1.5), 4), "--api", work.api]
    lengths = ["--input-tokens", 64, "--output-tokens", work.tokens, "--out", run.out]
    command = [PYTHON, "-m", "locust", "-f", ROOT / "scenarios/chat.py", "--headless", "--only-summary"]
    return [*command, "--host", run.url, *load, *lengths]


def _read_loadtest(run: Run, _meter: Meter, truth: Truth) -> Seen:
    """Read a run folder; requests cut off at the end of a run by time are not lost, those never served whole are."""
    ttft, gaps, lost, ok = [], [], 0, 0
    for _, rows in RunFolder.open(run.out).requests():
        for row in rows:
            if row["outcome"] == "ok" and row["asked"] == run.work.tokens:
                ok += 1
                ttft.append((row["t_first_token"] - row["t_send"]) / 1e6)
                gaps.append(np.diff(row["chunks"]) / 1e3)
            elif row["outcome"] != "cancelled":
                lost += 1
    offset = time.time_ns() - time.perf_counter_ns()
    written = max(path.stat().st_mtime_ns for path in run.out.glob("requests-*.jsonl")) - offset
    done = max(float(written), truth.ended_ns)  # its last record on disk: decoding and writing are in
    void = float(analyse(run.out).summary["verdict"] == VOID)
    return Seen(ok, lost, np.array(ttft), np.concatenate(gaps), done, void=void)


# -- loops as people write them -------------------------------------------------------------------------------------


def _plain(name: str, venv: str | None = None) -> Callable[[Run], list[object]]:
    def command(run: Run) -> list[object]:
        work = run.work
        python = python_of(venv) if venv else PYTHON
        task = [run.url, work.streams, work.requests, work.tokens, work.path]
        return [python, HERE / "plain.py", name, *task, run.out]

    return command


def _plain_locust(run: Run) -> list[object]:
    users = run.work.streams
    command = [PYTHON, "-m", "locust", "-f", HERE / "plain_locust.py", "--headless", "--only-summary"]
    return [*command, "-u", users, "-r", users]


def _peer(client: str) -> Callable[[Run], dict[str, str]]:
    def environment(run: Run) -> dict[str, str]:
        work = run.work
        task = {"url": run.url, "streams": work.streams, "requests": work.requests, "tokens": work.tokens}
        return {"PEER": json.dumps({**task, "path": work.path, "out": str(run.out), "client": client})}

    return environment


def _read_plain(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    said = orjson.loads(run.out.read_bytes())
    return Seen(said["ok"], run.work.total - said["ok"], _ms(said["ttft_ms"]), _ms(said["gaps_ms"]), said["done_ns"])


# -- other load testers ---------------------------------------------------------------------------------------------


def _tokenizer(folder: Path) -> Path:
    """Write a tokenizer of single bytes: these tools want one, and take it from a model hub unless it is a folder."""
    where = folder / "tokenizer"
    where.mkdir(exist_ok=True)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that stand for themselves in byte-level BPE
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}
    none = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    parts = {"added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level, "model": model}
    tokenizer = {"version": "1.0", **none, **parts}
    ends = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100_000, **ends}
    for name, content in (("tokenizer", tokenizer), ("tokenizer_config", facts), ("config", {"model_type": "llama"})):
        (where / f"{name}.json").write_text(json.dumps(content))
    return where


def _aiperf(run: Run) -> list[object]:
    work, tokenizer = run.work, _tokenizer(run.folder)
    load = ["--concurrency", work.streams, "--request-count", work.total, "--streaming", "--endpoint-type", "chat"]
    lengths = ["--isl", PROMPT_BYTES, "--osl", work.tokens, "--osl-stddev", 0, "--use-legacy-max-tokens"]
    quiet = ["--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--export-level", "records"]
    where = ["--url", run.url, "-m", MODEL, "--tokenizer", tokenizer, "--artifact-dir", run.out]
    return [python_of("aiperf").parent / "aiperf", "profile", *where, *load, *lengths, *quiet]


def _read_aiperf(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    rows = [orjson.loads(line) for line in (run.out / "profile_export.jsonl").read_bytes().splitlines()]
    whole = [row["metrics"] for row in rows if "time_to_first_token" in row["metrics"]]
    gaps = np.concatenate([row["inter_chunk_latency"]["value"] for row in whole])
    offset = time.time_ns() - time.perf_counter_ns()
    done = max(row["metadata"]["request_end_ns"] for row in rows) - offset
    ttft = _ms(row["time_to_first_token"]["value"] for row in whole)
    return Seen(len(whole), run.work.total - len(whole), ttft, gaps, done)


def _guidellm(run: Run) -> list[object]:
    work = run.work
    command = [python_of("guidellm").parent / "guidellm", "run", "--disable-progress"]
    where = ["--backend", f"kind=openai_http,target={run.url},model={MODEL}"]
    load = ["--profile", f"kind=concurrent,streams={work.streams}", "--constraint"]
    count = [f"kind=max_requests,count={work.total}", "--output", f"kind=json,path={run.out}.json"]
    data = ["--data", f"kind=synthetic_text,prompt_tokens={PROMPT_BYTES},output_tokens={work.tokens}"]
    return [
        *command,
        *where,
        *load,
        *count,
        *data,
        "--tokenizer",
        f"kind=huggingface_auto,model={_tokenizer(run.folder)}",
    ]


def _read_guidellm(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    """Read its report; its ITL is one mean a request, so that is all there is to compare."""
    whole = orjson.loads(Path(f"{run.out}.json").read_bytes())["benchmarks"][0]["requests"]["successful"]
    offset = time.time_ns() - time.perf_counter_ns()
    done = max(row["request_end_time"] for row in whole) * 1e9 - offset
    ttft = _ms(row["time_to_first_token_ms"] for row in whole)
    gaps = _ms(row["inter_token_latency_ms"] for row in whole)
    return Seen(len(whole), run.work.total - len(whole), ttft, gaps, done)


def _prompts(run: Run, key: str) -> Path:
    """Write a JSON object a line with a prompt each, no two of them alike."""
    path = run.folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({key: f"[{i:012d}] {WORDS}"}) + "\n" for i in range(run.work.total)))
    return path


def _vllm(run: Run) -> list[object]:
    work = run.work
    command = [program_of("vllm"), "bench", "serve", "--backend", "openai-chat", "--endpoint", work.path]
    where = ["--base-url", run.url, "--model", MODEL, "--tokenizer", _tokenizer(run.folder), "--disable-tqdm"]
    data = ["--dataset-name", "custom", "--dataset-path", _prompts(run, "prompt"), "--skip-chat-template"]
    load = ["--num-prompts", work.total, "--max-concurrency", work.streams, "--custom-output-len", work.tokens]
    kept = ["--save-result", "--save-detailed", "--result-filename", f"{run.out}.json"]
    return [*command, *where, *data, *load, *kept, "--ready-check-timeout-sec", 0]


def _read_vllm(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    """Read its result; a request that failed has an error, and its instants are of the monotonic clock in seconds."""
    said = orjson.loads(Path(f"{run.out}.json").read_bytes())
    columns = zip(said["errors"], said["start_times"], said["ttfts"], said["itls"], strict=True)
    whole = [row for error, *row in columns if not error]
    gaps = np.concatenate([np.array(itls) for _, _, itls in whole]) * 1e3
    done = max(start + ttft + sum(itls) for start, ttft, itls in whole) * 1e9
    return Seen(len(whole), run.work.total - len(whole), _ms(ttft * 1e3 for _, ttft, _ in whole), gaps, done)


def _read_vllm_rust(run: Run, meter: Meter, truth: Truth) -> Seen:
    return replace(_read_vllm(run, meter, truth), done_ns=None)  # its instants are since its own start


def _rust(run: Run) -> dict[str, str]:
    return {**OFFLINE(run), "VLLM_USE_RUST_BENCH": "1"}


def _evalscope(run: Run) -> list[object]:
    work = run.work
    command = [program_of("evalscope"), "perf", "--api", "openai", "--url", f"{run.url}{work.path}", "--model", MODEL]
    data = ["--dataset", "openqa", "--dataset-path", _prompts(run, "question")]
    load = ["--number", work.total, "--parallel", work.streams, "--max-tokens", work.tokens, "--stream"]
    return [*command, *data, *load, "--no-test-connection", "--outputs-dir", run.out, "--no-timestamp"]


def _read_evalscope(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    """Read the database that it leaves: a row a request, its gaps as JSON; instants are of the monotonic clock in seconds."""
    asked = "SELECT first_chunk_latency, inter_token_latencies, completed_time FROM result WHERE success = 1"
    found = sorted(run.out.rglob("benchmark_data.db"))
    with closing(sqlite3.connect(found[0])) as database:
        whole = database.execute(asked).fetchall()
    gaps = np.concatenate([np.array(orjson.loads(gaps), dtype=float) for _, gaps, _ in whole]) * 1e3
    done = max(at for *_, at in whole) * 1e9
    return Seen(len(whole), run.work.total - len(whole), _ms(first * 1e3 for first, *_ in whole), gaps, done)


OFFLINE: Callable[[Run], dict[str, str]] = lambda _: {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}  # noqa: E731

CLIENTS = {
    "floor": Client("floor", _floor, _read_floor),
    "wire": Client("sockets of loadtest run, no records", _plain("wire"), _read_plain),
    "asyncio": Client("loadtest run", _asyncio, _read_loadtest),
    "wire-gevent": Client("sockets of the Locust users, no records", _plain("wire-gevent"), _read_plain),
    "locust": Client("Locust users of this project", _locust, _read_loadtest),
    "aiohttp": Client("a loop of aiohttp", _plain("aiohttp", "aiohttp"), _read_plain),
    "httpx": Client("a loop of httpx", _plain("httpx"), _read_plain),
    "locust-fast": Client("Locust's FastHttpUser", _plain_locust, _read_plain, environment=_peer("fast")),
    "locust-requests": Client("Locust's HttpUser", _plain_locust, _read_plain, environment=_peer("requests")),
    "aiperf": Client("AIPerf", _aiperf, _read_aiperf, slow=True),
    "guidellm": Client("GuideLLM", _guidellm, _read_guidellm, slow=True, environment=OFFLINE),
    "vllm": Client("vllm bench serve", _vllm, _read_vllm, slow=True, environment=OFFLINE),
    "vllm-rust": Client("vllm bench serve in Rust", _vllm, _read_vllm_rust, slow=True, environment=_rust),
    "evalscope": Client("evalscope perf", _evalscope, _read_evalscope, slow=True, environment=OFFLINE),
}
