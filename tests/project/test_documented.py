"""Every command of README and docs runs: servers, models and long times are replaced, all else is as a reader would paste it.

A page is a shell session in a folder of its own, its commands in their order. What cannot run says why (`documented.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.documented import ANY_RUN, MODEL, PAGES, SHELL, Documented, commands_of, replaced, settings_of, shortened
from support.gateways import free_port, microsocks
from support.hops import gateway, on_socket, proxying
from support.llamacpp import write_model
from support.places import PIXEL, ROOT
from support.virtual_runs import Load, play

from loadtest.analyse.whatif.model import predict
from loadtest.cli.demo import simulated_server
from loadtest.simulate.model.timing import StepLaw, Timing

Call = Callable[..., tuple[int, str, str]]
MOST_NOT_RUN = 5
SHORT = {
    "LOADTEST_NO_REPORT": "1",
    "LOCUST_INPUT_TOKENS": "16",
    "LOCUST_OUTPUT_TOKENS": "3",
    "LOCUST_WARMUP": "0",
    "STEP": "0.2",  # of scenarios/queue_past_four.py
    "TENANT": "a",
    "COOKIE": "session=a",
    "NO_COLOR": "1",
}
TIMING = Timing(step=StepLaw(0.020, 0.005), prefill_s=0.001, jitter=0.05)
READERS = ("report", "plot", "compare", "advise", "predict", "score", "explain", "export", "memory")
LLAMACPP = {"/props": {"total_slots": 4, "default_generation_settings": {"n_ctx": 8192}}}
VLLM = {
    "/v1/models": {"data": [{"id": MODEL, "owned_by": "vllm", "max_model_len": 8192}]},
    "/version": {"version": "0.9"},
}
LOOPS = (
    (r'--model "\$\w+"', f"--model {MODEL}"),
    (r"--requests-per-stream \d+", "--requests-per-stream 1"),
    ("1,2,4,8", "1,2"),
)
# tokens for a prediction, so few that it is as short as it ever is: that commands run is asked here, not for percents
SIMULATED = 600
SHIM = f"""
import sys
from loadtest.cli import main
if sys.argv[1] in {READERS}:
    from pathlib import Path
    from matplotlib.figure import Figure
    from loadtest.analyse.whatif.model import predict
    predict.TOKENS_SIMULATED = {SIMULATED}
    Figure.savefig = lambda _, file, **__: file.write({PIXEL!r})
main()
"""
MICROSOCKS = shutil.which("microsocks")  # where it is not installed, the commands that go through it do not run
PREFIXES = {"/llm": "", "/paas/v4": "/v1", f"/openai/deployments/{MODEL}": "/v1", "/openai/v1": "/v1", "/compat": "/v1"}


@pytest.fixture(scope="module")
def servers(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The simulated server, and what makes it look like those of other roles."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(simulated_server("--slots", "4", "--speed", "200", "--warm"))
        hidden: dict[str, object] = {"/api/": None, "/props": None, "/version": None}
        proxy = stack.enter_context(proxying())
        yield {
            "ollama": url,
            "openai": stack.enter_context(gateway(url, known=hidden, prefixes=PREFIXES)),
            "vllm": stack.enter_context(gateway(url, known={**hidden, **VLLM})),
            "llamacpp": stack.enter_context(gateway(url, known={**hidden, **LLAMACPP})),
            "tls": stack.enter_context(gateway(url, known=hidden, prefixes=PREFIXES, tls=tls)),
            "proxy": proxy.url,
            "socks": stack.enter_context(microsocks(tmp_path_factory.mktemp("socks"))) if MICROSOCKS else "",
            "certificate": str(certificate),
        }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: prompts, a model's file, a run to look at, a prediction."""
    place = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("run", "later")):
        loads = [Load(users=users, requests=6 * users, output=(12, 12)) for users in (1, 2, 8)]
        play(TIMING, loads, slots=2, seed=seed).write(place / name)
    shutil.copy(ROOT / "scenarios/batch_prompts.jsonl", place / "prompts.jsonl")
    write_model(place / "model.gguf")
    said = [{"from": who, "value": f"{who} says {number}"} for number in range(2) for who in ("human", "gpt")]
    (place / "sharegpt.json").write_text(json.dumps([{"id": str(row), "conversations": said} for row in range(8)]))
    command = [sys.executable, "-m", "loadtest", "predict", str(place / "run"), "--concurrency", "8"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return place


@dataclass
class Session:
    """A shell of the reader's, in a folder of its own."""

    place: Path
    servers: dict[str, str]
    template: Path
    call: Call
    environment: pytest.MonkeyPatch
    running: list[tuple[subprocess.Popen[str], bool]] = field(
        default_factory=list
    )  # and whether it runs until it is ended
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def run(self, command: Documented) -> None:
        """Run one command as a reader would; an exit code that means a mistake is a failure."""
        text = replaced(command.text, self.servers, self.place)
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").partition("=")
            self.environment.setenv(name, "sk-test" if value == "…" else value.strip("'\""))
        elif SHELL.search(_unquoted(text)):
            self._shell(text)
        elif text.startswith("locust "):
            self._locust(shlex.split(text))
        elif text.startswith("loadtest serve"):
            self._serve(shlex.split(text))
        else:
            assert text.startswith("loadtest "), f"{command.page}:{command.line}: what runs `{command.text}`?"
            self._loadtest(shortened(shlex.split(text)), loose=command.inline or command.page == "docs/cli.md")

    def _loadtest(self, words: list[str], *, loose: bool) -> None:
        if "--cert" in words:
            self.environment.setenv("SSL_CERT_FILE", self.servers["certificate"])
        if "--key-env" in words:
            self.environment.setenv(words[words.index("--key-env") + 1], "sk-test")
        if words[1] in READERS and "--published" not in words:  # which takes runs of its own scenarios
            self._make_runs(words, loose=loose)
        if words[1] == "predict":
            (self.place / "prediction.json").unlink(missing_ok=True)  # the one of `files`
        if words[1] == "run" and "--out" not in words:
            words = [*words, "--out", f"runs/{next(self.numbers)}"]  # by default it is named by the second
        with pytest.MonkeyPatch.context() as short:
            for name, value in settings_of(words).items() if words[1] == "run" else ():
                short.setenv(name, value)
            code, _, err = self.call(*words[1:])
        assert code in (0, 1, 3), err  # 1: an objective that the stand-in misses; 3: this machine was busy

    def _make_runs(self, words: list[str], *, loose: bool) -> None:
        """Put a run that is long enough in the place of those that a command reads; the page must have made them before.

        Args:
            loose: the command is an example that stands alone.
        """
        for word in words:
            if word.startswith("runs/") and words[words.index(word) - 1] not in ("-o", "--out"):
                folder, own = self.place / word, self.place / "own" / word
                assert folder.exists() or loose or word.startswith(ANY_RUN), f"no command before makes {word}"
                if folder.exists() and not own.exists():
                    shutil.copytree(folder, own)
                shutil.rmtree(folder, ignore_errors=True)
                real = own if words[1] == "memory" else self.template / ("later" if words[1] == "score" else "run")
                shutil.copytree(real, folder)

    def _shell(self, text: str) -> None:
        for pattern, shorter in LOOPS:
            text = re.sub(pattern, shorter, text)
        done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1, 3), done.stdout + done.stderr

    def _serve(self, words: list[str]) -> None:
        words = [word for before, word in zip(["", *words], words, strict=False) if "--port" not in (before, word)]
        command = [sys.executable, "-m", *words, "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.running.append((server, True))
        assert server.stdout is not None
        assert "listening on http://" in server.stdout.readline()

    def _locust(self, words: list[str]) -> None:
        words = ["-m", *shortened(words)]
        if "--master" in words or "--worker" in words:
            words = [word.replace("client-1", "127.0.0.1") for word in words]
        elif "--headless" not in words and "--help" not in words:  # the web UI, whose test ends by itself
            words += ["--web-port", str(free_port()), "--autostart", "-u", "1", "-t", "1", "--autoquit", "0"]
        if "--master" in words:
            self.running.append((subprocess.Popen([sys.executable, *words], text=True), False))
            return
        workers = 2 if "--worker" in words else 1
        started = [
            subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(workers)
        ]
        for process in started:
            said, _ = process.communicate(timeout=60)
            assert process.returncode in (0, 1, 3), said
            assert "Traceback" not in said, said

    def close(self) -> None:
        for process, endless in self.running:
            if endless:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 1, 3)
            if process.stdout is not None:
                process.stdout.close()


def _unquoted(text: str) -> str:
    """Return a command without its quoted parts, in which signs of the shell mean nothing."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", text)


@pytest.fixture
def session(
    servers: dict[str, str],
    files: Path,
    loadtest: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    locust_port: None,
) -> Iterator[Session]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(PIXEL))  # charts have tests of their own
    monkeypatch.setattr(predict, "TOKENS_SIMULATED", SIMULATED)
    for name, value in {**SHORT, "OLLAMA_HOST": servers["ollama"]}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "bin").mkdir()
    for name, script in (("loadtest", SHIM), ("locust", "from locust.main import main; main()")):
        (tmp_path / "bin" / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(script)} "$@"\n'
        )
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    for path in files.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    for name in ("ca.pem", "me.pem", "me.key"):
        shutil.copy(servers["certificate"], tmp_path / name)
    with on_socket(tmp_path / "ollama.sock", servers["ollama"]), on_socket(tmp_path / "nginx.sock", servers["openai"]):
        made = Session(tmp_path, servers, files, loadtest, monkeypatch)
        try:
            yield made
        finally:
            made.close()


ran: set[str] = set()  # what another page has run already, if it leaves nothing that its page goes on with


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)])
def test_the_commands_of_a_page_run(page: str, session: Session) -> None:
    wrong = []
    for command in commands_of(page):
        if command.reason or command.text in ran or ("socks5" in command.text and not MICROSOCKS):
            continue
        try:
            session.run(command)
        except AssertionError as error:  # the others are run all the same, so that all are seen at once
            wrong.append(f"{page}:{command.line}: {command.text}\n{error}")
        else:
            if "--out" not in command.text and not command.text.startswith("export"):
                ran.add(command.text)
    assert not wrong, "\n\n".join(wrong)


def test_the_locustfile_of_the_docs_runs(session: Session) -> None:
    text = (ROOT / "docs/locust.md").read_text(encoding="utf-8")
    mine, library = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    Path("mine.py").write_text(mine.replace("llama3.1:8b", MODEL), encoding="utf-8")
    session.run(Documented("docs/locust.md", 1, "locust -f mine.py --headless -u 2 -t 2 --out runs/mine"))
    assert list(Path("runs/mine").glob("requests-*.jsonl"))
    library = library.replace("\nenvironment =", "\nfrom mine import Person\nenvironment =").replace(
        "later(60", "later(5"
    )
    Path("library.py").write_text(library, encoding="utf-8")
    there = {**os.environ, "OLLAMA_HOST": session.servers["ollama"], "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "library.py"], check=True, timeout=60, env=there)
    assert len(list(Path("runs").glob("*/run.json"))) == 2, "a test with Locust as a library keeps no run"


def test_what_cannot_run_is_little_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    left_out = [command for page in PAGES for command in commands_of(page) if command.reason]
    with capfd.disabled():
        print(f"\n{len(left_out)} documented commands are not run:")
        for command in left_out:
            print(f"  {command.page}:{command.line} {command.text}: {command.reason}")
    blocks = {(command.page, command.line) for command in left_out}
    assert len(blocks) <= MOST_NOT_RUN


def test_a_command_that_is_wrong_is_seen(session: Session) -> None:
    with pytest.raises(AssertionError):
        session.run(Documented("a page", 1, "loadtest run --concurency 4"))
    with pytest.raises(AssertionError):
        session.run(Documented("a page", 1, "loadtest check http://127.0.0.1:9"))
