"""The commands of README and docs: which there are, and what a test puts in the place of servers, models and long times.

A line of a fenced block without a language is a command, and so is `loadtest …` or `locust …` between backticks where it is
whole (no … and no placeholder in capitals). A block that cannot run has a comment above it, <!-- not run: why -->; one that has
a test of its own, <!-- tests/test_name.py runs this block -->.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.places import ROOT

PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
MODEL = "llama3.1:70b"  # of the simulated server
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REASON = re.compile(r"<!-- not run: (.+?) -->")
ELSEWHERE = re.compile(r"<!-- (tests/[\w/]+\.py) runs this block -->")
SHELL = re.compile(r"^(for|while|if)\b|[|&<>]|\$\(|;")  # what takes a shell
EXAMPLE = re.compile(r"^ {4}(loadtest .+)$", re.MULTILINE)  # of a command's help
OPEN_ENDED = re.compile(r"…|\b[A-Z]{3,}\b(?![_=/])|<")  # an inline command that names a form, not a command


@dataclass(frozen=True, slots=True)
class Documented:
    """One command of a page; `reason` says why no test runs it."""

    page: str
    line: int
    text: str
    reason: str = ""
    inline: bool = False


def commands_of(page: str) -> list[Documented]:
    """Return the commands of a page in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Documented] = []
    rest = text
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        if page == "docs/cli.md":
            found += [Documented(page, line, one[1].strip()) for one in EXAMPLE.finditer(block[2])]
        elif block[1] in ("", "sh", "bash", "console"):
            above = text[: block.start()].rstrip().rpartition("\n")[2]
            if (test := ELSEWHERE.fullmatch(above)) and (ROOT / test[1]).exists():
                continue
            reasons = REASON.fullmatch(above)
            reason = reasons[1] if reasons else ""
            found += [Documented(page, line, one, reason) for one in _lines(block[2])]
        rest = rest.replace(block[0], "\n" * block[0].count("\n"))
    for span in re.finditer(r"`((?:loadtest \w+|locust) [^`\n]+)`", rest):  # `loadtest run` alone names a command
        if not OPEN_ENDED.search(span[1].replace(r"\|", "|")) or span[1].startswith("loadtest run --url"):
            line = rest.count("\n", 0, span.start()) + 1
            found.append(Documented(page, line, span[1].replace(r"\|", "|"), inline=True))
    return sorted(found, key=lambda one: one.line)


def _lines(block: str) -> Iterator[str]:
    """Yield the commands of a block: lines that go on are joined, a loop is one command."""
    joined = block.replace("\\\n", " ")
    if re.search(r"^\s*done\b", joined, re.MULTILINE):
        yield joined.strip()
        return
    for line in joined.splitlines():
        if command := re.sub(r"(^|\s)#\s.*$", "", line).strip():
            yield command


# -- what stands in for what ------------------------------------------------------------------------------------------

URL = re.compile(r"(https?|socks5h?)://(?:([^\s'\",/@]+)@)?([\w.-]+|\[[0-9a-f:]+\])(:\d+)?(/[^\s'\",]*|\?[^\s'\",]*)?")
ANY_RUN = "runs/any-"  # how a folder's name begins that stands for one of the reader's: runs/<a run>
TLS_OPTIONS = ("--ca-file", "--insecure", "--cert")
SHORTER = {
    "--duration": "0.3",
    "--think-time": "0.01",
    "--for": "0.2",
    "-t": "2",
    "-u": "2",
    "-r": "2",
    "--stop-after-errors": "3",
}


def replaced(text: str, servers: Mapping[str, str], place: Path) -> str:
    """Return a command with the test's servers, by role, in the place of those that it names."""
    tls = any(option in text for option in TLS_OPTIONS)
    seen: dict[str, int] = {}

    def url(found: re.Match[str]) -> str:
        scheme, login, host, port, rest = found.groups()
        if scheme.startswith("socks"):
            return f"{scheme}://{servers['socks']}"
        if "proxy" in host:
            return servers["proxy"]
        if port and port.startswith(":9"):  # exporters: a monitor says that they do not answer, and goes on
            return found[0]
        roles = {":8000": "vllm", ":8080": "llamacpp", ":11434": "ollama", ":1143": "ollama"}
        role = "tls" if tls else roles.get(port or "", "ollama" if "ollama" in host else "openai")
        number = seen.setdefault(host, len(seen))
        base = servers[role] if number == 0 else servers[role].replace("127.0.0.1", "localhost")
        return base.replace("://", f"://{login}@") + (rest or "") if login else base + (rest or "")

    text = re.sub(r"runs/<([^>]+)>", lambda found: ANY_RUN + re.sub(r"\W+", "-", found[1]), text)
    text = text.replace("unix:/run/", f"unix:{place}/")
    return URL.sub(url, text).replace(" URL", " " + servers["ollama"]).replace("/DEPLOYMENT", "/" + MODEL)


def shortened(words: list[str]) -> list[str]:
    """Return the words of a command with another model, and with times that a test can wait for."""
    found: list[str] = []
    name = words[1] if len(words) > 1 else ""
    most = "2"
    if {"--rate", "--find-max"} <= set(words):  # a search over rates takes minutes on any server; test_search.py has it
        words = [word for word in words if word != "--find-max"]
    for before, word in zip(["", *words], words, strict=False):
        if before in SHORTER:
            found.append(SHORTER[before])
        elif before == "--model" and name != "memory":
            found.append(MODEL)
        elif before == "--rate":
            found.append(",".join(f"{float(rate) * 20:g}" for rate in _ends(word)))
        elif before == "--concurrency" and name == "run":
            found.append(",".join(dict.fromkeys(str(min(int(streams), 6)) for streams in _ends(word))))
        elif before == "--metrics-port":
            found.append("0")
        elif before == "--path":
            found.append("/v1/embeddings" if "embeddings" in words else "/v1/chat/completions")
        elif before == "--find-max" and not word.isdigit():
            found += [most, word]
        else:
            found.append(word)
    if found[-1] == "--find-max":
        found.append(most)
    if name == "calibrate":
        found += ["--streams-most", "1", "--arrivals", "independent"]
    if name == "monitor" and "--for" not in found:
        found += ["--for", "0.2"]
    return found


def _ends(levels: str) -> list[str]:
    """Return the first and the last of several levels: a level more takes its time and shows nothing else of a command."""
    every = levels.split(",")
    return list(dict.fromkeys((every[0], every[-1])))


def settings_of(words: list[str]) -> dict[str, str]:
    """Return the environment that makes a `loadtest run` short; what the command itself says wins over it."""
    name = next((word for word in words if word.endswith(".toml")), None)
    file = tomllib.loads((ROOT / name).read_text(encoding="utf-8")) if name else {}
    found = {"LOADTEST_WARMUP": "0"}
    own_text = {"words", "prompt", "prompt_file"} & file.keys() or {"--prompt", "--prompt-file"} & set(words)
    if not own_text and "embeddings" not in words:
        found["LOADTEST_OUTPUT_TOKENS"] = "4"
    if not own_text and "--data" not in words and "data" not in file.get("data", {}):
        found["LOADTEST_INPUT_TOKENS"] = "16"
    if "words" in file:
        found["LOADTEST_WORDS"] = "25"
    if "think_time" in file.get("sessions", {}) and "--think-time" not in words:
        found["LOADTEST_THINK_TIME"] = "0.01"
    if "--find-max" in words:
        return found if "duration" in file else {**found, "LOADTEST_REQUESTS": "8"}
    if "duration" in file:
        return {**found, "LOADTEST_DURATION": "0.3", "LOADTEST_CONCURRENCY": "1,2"}
    if "rate" in file and "--rate" not in words:
        found["LOADTEST_RATE"] = "20"
    if not {"--concurrency", "--rate", "--trace", "--find-max", "--unload"} & set(words) and "concurrency" not in file:
        found["LOADTEST_CONCURRENCY"] = "1,2"
    if (
        {"--duration", "--data-once", "--requests-per-stream"} & set(words)
        or "very.json" in words
        or file.get("data", {}).get("data_once")
    ):
        return found
    given = words[words.index("--concurrency") + 1].split(",") if "--concurrency" in words else None
    return {**found, "LOADTEST_REQUESTS": str(max(map(int, given or file.get("concurrency", [2]))))}
