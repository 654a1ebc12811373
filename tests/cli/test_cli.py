"""The command line: every mistake is one sentence and exit code 2, with nothing left behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.made_servers import made

from loadtest import cli as commands
from loadtest.cli.demo import simulated_server
from loadtest.errors import TargetError
from loadtest.measure.interruption import SIGNALS
from loadtest.reach import alert_words
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.scenario import ConnectionKeys
from loadtest.targets import prepare
from loadtest.targets.server.control import ControlClient, ask
from loadtest.targets.server.not_reached import not_reached

Call = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def answering(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """A server that answers everything alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def refused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def one_sentence(err: str) -> str:
    lines = [line for line in err.splitlines() if line.strip()]
    assert "Traceback" not in err
    assert lines, "a mistake must be said"
    return lines[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--concurrency", "0"], "concurrency must be 1 or more"),
        (["--concurrency", "one"], "not a list of whole numbers"),
        (["--concurrency", ","], "is empty"),
        (["--requests", "2", "--concurrency", "4"], "cannot keep 4 streams busy; ask for 4 or more."),
        (["--requests", "5"], "8 streams busy; ask for 8 or more, or for fewer streams with --concurrency 1,2,4."),
        (["--prompt", "x", "--prompt-file", "y"], "exclude each other"),
        (["--prompt-file", "/nowhere/x.txt"], "cannot read the prompt file"),
        (
            ["--prefix-zipf", "1"],
            "--prefix-zipf says which of several prefixes is drawn; add --prefixes, e.g. --prefixes 20.",
        ),
        (["--arrivals", "gamma"], "--arrivals gamma needs a rate; add --rate, e.g. --rate 4."),
        (["--data", "max_in_flight.jsonl"], "max_in_flight.jsonl"),
        (["--bogus", "1"], "No such option"),
        (["--model", "nope"], "has no model 'nope'; it has: llama3.1:70b"),
        (["--input-tokens", "200000"], "has a context of"),
        (["--url", "ftp://x"], "is not a URL"),
    ],
)
def test_a_mistake_is_a_sentence_and_leaves_nothing(
    loadtest: Call, simulated_url: str, tmp_path: Path, options: list[str], words: str
) -> None:
    given = options if "--url" in options else ["--url", simulated_url, *options]
    code, _, err = loadtest("run", *given, "--out", tmp_path / "run")
    assert code == 2, err
    assert words in one_sentence(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("status", "kind", "body", "words"),
    [
        (200, "text/html", b"<html>hello</html>", "a web page"),
        (404, "text/plain", b"not here", "status 404"),
        (401, "application/json", b'{"error":"no key"}', "refuses us with status 401"),
        (403, "application/json", b"{}", "OPENAI_API_KEY"),
        (500, "text/plain", b"oh", "status 500"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_what_is_no_model_server_is_said(
    loadtest: Call, tmp_path: Path, command: str, status: int, kind: str, body: bytes, words: str
) -> None:
    with answering(status, kind, body) as url:
        given = ["--url", url, "--out", tmp_path / "run"] if command == "run" else [url]
        code, _, err = loadtest(command, *given)
    assert code == 2
    assert words in one_sentence(err)
    assert not (tmp_path / "run").exists()


def test_an_interrupt_before_anything_counted_says_that_nothing_was_recorded(
    loadtest: Call, simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt("SIGINT")

    monkeypatch.setattr(prepare, "first_answer", interrupt)
    code, _, err = loadtest("run", simulated_url, "--out", tmp_path / "run")
    assert code == 130
    said = "loadtest: interrupted before the first request counted; nothing was recorded."
    assert one_sentence(err) == said
    assert "8 requests first, which do not count" in err
    assert not (tmp_path / "run").exists()
    code, _, err = loadtest("run", simulated_url, "--quiet", "--out", tmp_path / "run")
    assert (code, err.strip()) == (130, said)


def test_an_unreachable_server_is_said(loadtest: Call, tmp_path: Path) -> None:
    url = refused_url()
    code, _, err = loadtest("run", "--url", url, "--out", tmp_path / "run")
    assert code == 2
    assert (
        one_sentence(err)
        == f"loadtest: cannot reach {url}: nothing listens there; start the server, or give another URL."
    )
    assert not (tmp_path / "run").exists()


def test_what_keeps_a_server_from_being_reached_is_said_without_a_number() -> None:
    ollama = not_reached("http://127.0.0.1:11434", "cannot connect to 127.0.0.1:11434: connection refused", None)
    assert ollama == (
        "cannot reach http://127.0.0.1:11434: nothing listens there, where Ollama is by default; start `ollama serve`, "
        "or give the server's URL."
    )
    no_socket = not_reached("unix:/run/x.sock", "no such file or directory", None)
    assert (
        no_socket == "cannot reach unix:/run/x.sock: there is no such socket; start the server, or give another path."
    )
    alert = alert_words("TLSV1_ALERT_NO_APPLICATION_PROTOCOL")
    no_http1 = not_reached("https://x", f"cannot connect to x:443: TLS failed: {alert}", None)
    assert no_http1.startswith(
        "cannot measure https://x: the server speaks HTTP/2 alone there, and loadtest speaks HTTP/1.1"
    )
    unknown_name = not_reached("https://x", f"TLS failed: {alert_words('TLSV1_UNRECOGNIZED_NAME')}", None)
    assert "as one without a certificate for that host does: give the URL with a name it serves" in unknown_name
    silent = not_reached("https://x", "cannot connect to x:443: TLS not ready within 20 s (connect limit)", None)
    assert (
        "does not answer as a server of TLS does, in time: see whether it speaks http, and give http://x then" in silent
    )
    with ControlClient(ConnectionKeys(), 5.0) as client, pytest.raises(TargetError) as unknown:
        ask(client, "http://no-such-host.invalid", "/api/tags")
    assert "cannot reach http://no-such-host.invalid: " in str(unknown.value)
    assert "Errno" not in str(unknown.value)


def test_a_folder_with_a_run_is_not_touched(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    RunFolder.create(tmp_path).write_run({"name": "first"})
    code, _, err = loadtest("run", "--url", simulated_url, "--out", tmp_path)
    assert code == 2
    assert "already holds a run" in one_sentence(err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]


@pytest.mark.parametrize("command", ["report", "plot"])
def test_a_folder_without_a_run_is_said(loadtest: Call, tmp_path: Path, command: str) -> None:
    code, _, err = loadtest(command, tmp_path)
    assert code == 2
    assert "is not a run folder" in one_sentence(err)


def test_check_says_what_is_there(loadtest: Call, simulated_url: str) -> None:
    code, out, _ = loadtest("check", simulated_url)
    assert code == 0
    assert "ollama" in out
    assert "llama3.1:70b" in out
    assert "simulated" in out


def test_check_advises_num_ctx_where_it_is_not_given(loadtest: Call) -> None:
    with simulated_server() as url:
        advised = [" ".join(loadtest("check", url, *given)[1].split()) for given in ((), ("--num-ctx", "2048"))]
    assert ["set it with --num-ctx" in out for out in advised] == [True, False]


def test_check_knows_llama_cpp_and_its_slots(loadtest: Call, llamacpp_url: str) -> None:
    code, out, _ = loadtest("check", llamacpp_url)
    assert code == 0
    assert "llama.cpp" in out
    assert "slots      4, as the server says" in out


def test_check_cannot_look_for_slots_before_a_model_is_chosen(loadtest: Call) -> None:
    """It said "--slots finds them" to somebody who had given --slots, and ended with 0."""
    listed: dict[str, Any] = {
        "models": [{"name": name, "model": name, "details": {}} for name in ("a:latest", "b:latest")]
    }
    with made({"/api/version": {"version": "0.24.0"}, "/api/tags": listed, "/api/ps": {"models": []}}) as server:
        code, out, err = loadtest("check", server.url, "--slots")
        assert (code, out) == (2, "")
        assert "slots cannot be looked for without a model" in one_sentence(err)
        assert "a:latest, b:latest" in err
        assert loadtest("check", server.url)[0] == 0


def test_v1_of_an_ollama_is_measured_too(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    options = ["--api", "openai", "--concurrency", "2", "--requests", "4", "--output-tokens", "8"]
    code, _, err = loadtest("run", "--url", simulated_url, *options, "--out", tmp_path / "run")
    assert code in (0, 3), err
    records = list(RunFolder.open(tmp_path / "run").records())
    assert {(record.dialect, record.outcome, record.output_tokens) for record in records} == {
        ("openai-chat", Outcome.OK, 8)
    }


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_ending_it_keeps_what_has_finished_and_records_the_rest_as_cancelled(
    simulated_url: str, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "run"
    options = ["--concurrency", "6", "--duration", "600", "--output-tokens", "40", "--out", str(out)]
    command = [sys.executable, "-m", "loadtest", "run", "--url", simulated_url, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stderr is not None
        requests = out / "requests-0.jsonl"
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > 12):
            os.sched_yield()
        process.send_signal(number)
        process.communicate()
    assert process.returncode == 130
    folder = RunFolder.open(out)
    outcomes = [record.outcome for record in folder.records()]
    assert outcomes.count(Outcome.OK) >= 12
    assert 1 <= outcomes.count(Outcome.CANCELLED) <= 6
    assert folder.read_run()["state"] == "interrupted"


@pytest.mark.usefixtures("bare_reports")
def test_a_run_that_was_killed_is_reported_as_far_as_it_got(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--concurrency", "6", "--duration", "600", "--output-tokens", "40", "--out", str(out)]
    command = [sys.executable, "-m", "loadtest", "run", "--url", simulated_url, *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        requests = out / "requests-0.jsonl"
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > 12):
            os.sched_yield()
        process.kill()
    with requests.open("ab") as file:
        file.write(b'{"id":99,"level":0,"se')  # what a crash in mid-write leaves
    code, out_text, err = loadtest("report", out)
    assert code in (0, 3), err
    assert "6 streams" in out_text
    assert (out / "report.html").exists()


def test_help_of_every_command_stands_alone(loadtest: Call) -> None:
    from loadtest.cli import COMMANDS

    for name in COMMANDS:
        code, out, _ = loadtest(name, "--help")
        assert code == 0
        assert out.startswith(f"Usage: loadtest {name}")
        assert len(out.split()) > 25


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", b"[]", "run.json is not a JSON object"),
        ("run.json", b"{", "run.json does not parse as JSON"),
        ("requests-0.jsonl", b'{"schema":99}\n', "newer loadtest"),
    ],
)
def test_a_broken_run_folder_is_a_sentence(
    loadtest: Call, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    RunFolder.create(tmp_path).write_run({"name": "first", "levels": []})
    (tmp_path / name).write_bytes(content)
    code, _, err = loadtest("report", tmp_path)
    assert code == 2
    assert words in one_sentence(err)


def test_a_place_that_cannot_be_written_is_a_sentence(loadtest: Call, simulated_url: str) -> None:
    code, _, err = loadtest("run", "--url", simulated_url, "--requests-per-stream", "1", "--out", "/proc/self")
    assert code == 2
    assert "cannot write to /proc/self" in one_sentence(err)


def test_a_terminal_without_unicode_loses_no_report(simulated_url: str, tmp_path: Path) -> None:
    options = ["--concurrency", "1", "--requests", "2", "--output-tokens", "4", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "loadtest", "run", "--url", simulated_url, *options]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert b"Traceback" not in done.stderr


def test_what_the_environment_says_to_other_programs_breaks_no_run(simulated_url: str, tmp_path: Path) -> None:
    """A process of its own: matplotlib reads its backend when it is imported."""
    said = {"ALL_PROXY": "socks5://127.0.0.1:1", "MPLBACKEND": "nowhere"}
    given = ["--url", simulated_url, "--concurrency", "1", "--requests", "1", "--warmup", "0", "--output-tokens", "2"]
    command = [sys.executable, "-m", "loadtest", "run", *given, "--report", "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, env={**os.environ, **said}, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 3)  # void where this machine is busy
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b"loading", "does not answer a first request: HTTP 503: loading."),
        (404, b"No such model.", "HTTP 404: No such model. `loadtest check --try`"),
        (429, b"{}", "does not answer a first request: HTTP 429"),
        (400, b'"m" does not support chat', "An embedding model is measured with --endpoint embeddings"),
    ],
)
def test_a_first_request_that_fails_is_said_with_its_status(
    loadtest: Call, tmp_path: Path, status: int, body: bytes, words: str
) -> None:
    with answering(status, "text/plain", body) as url:
        given = ["--url", url, "--api", "openai", "--model", "m", "--out", tmp_path / "run"]
        code, _, err = loadtest("run", *given)
    assert code == 2
    assert words in one_sentence(err)


WRAPPED = RuntimeError("Error calling __set_name__")
WRAPPED.__cause__ = KeyboardInterrupt("SIGINT")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(RuntimeError("x"), 3, "(RuntimeError)"), (MemoryError(), 3, "out of memory"), (WRAPPED, 130, "interrupted.")],
)
def test_a_bug_is_no_failed_gate_and_a_wrapped_interrupt_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, words: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(commands.cli, "main", fail)
    assert commands._exit_code_of(["check"]) == code
    assert words in capsys.readouterr().err


def test_an_interrupt_at_import_ends_with_the_same_code(tmp_path: Path) -> None:
    """Dataclasses are made by exec(), and `python -m` takes an interrupt in there for one that nobody caught."""
    lines = [
        "from loadtest import cli",
        "cli.cli.main = lambda **_: exec('raise KeyboardInterrupt')",
        "cli.main(['check'])",
    ]
    (tmp_path / "interrupted.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "interrupted"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "loadtest: interrupted.\n")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("certificate verify failed: self-signed certificate", "give its authority with --ca-file"),
        ("certificate verify failed: IP address mismatch, certificate is not valid for '10.0.0.1'", "for another name"),
        ("certificate verify failed: certificate has expired", "renew it, or trust it unseen"),
        ("certificate verify failed: certificate is not yet valid", "out of date by this machine's clock: "),
    ],
)
def test_a_certificate_that_does_not_fit_is_said_with_what_helps(said: str, words: str) -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"[SSL: CERTIFICATE_VERIFY_FAILED] {said} (_ssl.c:1006)")

    with httpx.Client(transport=httpx.MockTransport(refuse)) as client, pytest.raises(TargetError, match=words) as told:
        ask(client, "https://10.0.0.1", "/v1/models")
    assert ("--ca-file" in str(told.value)) is (words == "give its authority with --ca-file")


def test_what_a_certificate_is_not_valid_for_ends_in_one_stop() -> None:
    why = "cannot connect to a:443: TLS failed: Hostname mismatch, certificate is not valid for 'a'."
    assert "is not valid for 'a'; give the URL" in not_reached("https://a", why, None)
