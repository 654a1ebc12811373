"""Predictions on real llama.cpp servers, said beforehand and scored on two runs each, beside the textbook's models.

The cases are fixed: their digest is kept with every result, and docs/scorecard.md, which this makes, says how many of them
were run. A case measures a server at few loads, predicts the very requests of another (`loadtest predict --requests`), and
sends these twice, each time to a new server. What misses is in the table.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import hashlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs/scorecard.md", ROOT / "docs/scorecard.jsonl"
MODELS = {"small": {"width": 256, "blocks": 4}, "mid": {"width": 512, "blocks": 6}}  # of random weights
LENGTHS = {
    "equal": ("100", "30"),
    "mixed": ("uniform(40, 240)", "uniform(10, 50)"),
    "long prompts": ("lognormal(300, 0.6)", "uniform(10, 30)"),
}
TEXTBOOK = ("M/M/c", "USL", "straight line", "two segments")
GOALS = {  # by figure: (words, shares of error, what share of cases should lie within each)
    "ttft_s.p50": ("TTFT p50", (0.10, 0.20), (0.80, 0.95)),
    "ttft_s.p95": ("TTFT p95", (0.10, 0.20), (0.80, 0.95)),
    "output_tokens_per_s.mean": ("output tokens/s", (0.05,), (0.95,)),
}
REPEATABLE = 0.10  # by which two runs of one plan may differ; beyond, a hit is a prediction inside a measured interval
RULE = (
    f"Where two runs of one plan differ by over {REPEATABLE:.0%}, a prediction inside a measured 95 % interval counts as within. "
    '"Two runs apart": by how much two runs of one plan, each on a new server, differ (median).'
)
BESIDE = (
    "A textbook model says something of some cases only: two segments take four levels, and USL knows no TTFT. Each row holds "
    "both predictions against the same cases: median and 90th percentile of the absolute errors."
)
EVERY = (
    "The error of each prediction, in bold where the measured figure lies outside the 95 % band. `docs/scorecard.jsonl` has what was "
    "said, the bands and both measurements."
)
EARLIER = "before 2026-11-27"  # results that do not say their day
FOR_P95 = 200  # requests that a case of p95 has


@dataclass(frozen=True, slots=True)
class Case:
    """One prediction to be made and scored."""

    number: int
    model: str
    slots: int
    lengths: str
    fit: tuple[int, ...]  # users of the run that it is predicted from
    users: int | None  # the load predicted: users …
    utilisation: float | None  # … or an open loop at this share of the most requests/s that the fit showed

    @property
    def label(self) -> str:
        load = f"{self.users} users" if self.users else f"open loop, utilisation {self.utilisation:g}"
        return f"{self.model}, {self.slots} slot{'' if self.slots == 1 else 's'}, {self.lengths}: {load}"


def _cases() -> Iterable[Case]:
    """Yield 45 cases: each model and number of slots, closed loops past and below the slots, open loops from 0.5 to 1.1."""
    number = 0
    loads: tuple[tuple[str, float], ...] = (
        ("users", 0.75),
        ("users", 2.0),
        ("open", 0.5),
        ("open", 0.8),
        ("open", 1.1),
    )
    for place, slots in enumerate((1, 2, 3, 4, 6)):
        for turn, (kind, value) in enumerate(loads):
            for model in MODELS:
                if model == "mid" and turn == (place + 1) % len(loads):
                    continue  # nine cases for each number of slots
                lengths = tuple(LENGTHS)[(number + place) % len(LENGTHS)]
                users = max(round(slots * value * 1.5), 2) if kind == "users" else None
                fit = tuple(sorted({1, slots, slots + 1, slots + 3} - {users}))
                yield Case(number, model, slots, lengths, fit, users, None if users else value)
                number += 1


CASES = tuple(_cases())
DIGEST = hashlib.sha256(json.dumps([asdict(case) for case in CASES], sort_keys=True).encode()).hexdigest()


def measure(case: Case, folder: Path, requests: int) -> dict[str, Any]:
    """Run a case; return its result, or why there is none under `failed`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support import llamacpp  # needs xllamacpp, which only this and the tests do

    path = Path(tempfile.gettempdir()) / f"loadtest-scorecard-{case.model}.gguf"
    if not path.exists():
        llamacpp.write_model(path, **MODELS[case.model])
    result: dict[str, Any] = {
        "case": case.number,
        "digest": DIGEST,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_average": os.getloadavg()[0],
        "requests": requests,
    }
    asked, answered = LENGTHS[case.lengths]
    say = ["--input-tokens", asked, "--output-tokens", answered, "--no-report", "--quiet"]
    with llamacpp.serving(path, slots=case.slots, context=2048) as url:
        fit = folder / "fit"
        _loadtest("run", url, *say, "--concurrency", ",".join(map(str, case.fit)), "--requests", "40", "--out", fit)
    load = ["--concurrency", str(case.users)]
    if case.utilisation is not None:
        most = max(level["requests_per_s"] or 0.0 for level in _summary(fit)["levels"])
        load = ["--rate", f"{case.utilisation * most:.4g}"]
    said = folder / "prediction.json"
    made = _loadtest("predict", fit, *load, "--requests", requests, "--out", said)
    if not said.exists():
        return {**result, "failed": made.strip().splitlines()[-1].removeprefix("loadtest: ")}
    result["scores"] = []
    for again in ("first", "second"):
        # A new server each time: the same prompts again would meet a warm prefix cache.
        with llamacpp.serving(path, slots=case.slots, context=2048) as url:
            run = folder / again
            _loadtest("run", url, *say, *load, "--prediction", said, "--out", run)
        scored = _loadtest("score", said, run, "--json")
        body = json.loads(scored) if scored.lstrip().startswith("{") else {"figures": [], "not_scored": [scored]}
        verdict = _summary(run)["verdict"]
        result["scores"].append({"verdict": verdict, "figures": body["figures"], "not_scored": body["not_scored"]})
    return result


def _loadtest(*args: object) -> str:
    command = [sys.executable, "-m", "loadtest", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return found.stdout or found.stderr


def _summary(run: Path) -> dict[str, Any]:
    _loadtest("report", run)
    found: dict[str, Any] = json.loads((run / "summary.json").read_bytes())
    return found


# -- the page -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scored:
    """One figure of one case: the mean of two runs is what it is held against."""

    case: Case
    figure: str
    said: float
    band: tuple[float, float]
    measured: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    others: dict[str, float]  # error of each textbook model against the first run

    @property
    def value(self) -> float:
        return statistics.fmean(self.measured)

    @property
    def error(self) -> float:
        return self.said / self.value - 1

    @property
    def apart(self) -> float:
        """How far the two runs of one plan lie apart, as a share: no prediction can be nearer to both than half of that."""
        return (max(self.measured) - min(self.measured)) / self.value

    @property
    def repeats(self) -> bool:
        return self.apart <= REPEATABLE

    def within(self, share: float) -> bool:
        """Whether the error is at most so much; where two runs of one plan differ by more, an interval may hold it instead."""
        inside = not self.repeats and any(low <= self.said <= high for low, high in self.intervals)
        return abs(self.error) <= share or inside

    def other_error(self, model: str) -> float | None:
        """Return a textbook model's error against the mean of the runs."""
        if model not in self.others:
            return None
        return (1 + self.others[model]) * self.measured[0] / self.value - 1


def scored(results: Sequence[dict[str, Any]]) -> list[Scored]:
    """Return every figure that was scored in two runs."""
    found = []
    for result in results:
        scores = result.get("scores") or []
        for first in scores[0]["figures"] if len(scores) == 2 else ():
            same = [
                each
                for each in scores[1]["figures"]
                if (each["figure"], each["case"]) == (first["figure"], first["case"])
            ]
            if first["figure"] not in GOALS or not same:
                continue
            both = [first, same[0]]
            found.append(
                Scored(
                    case=CASES[result["case"]],
                    figure=first["figure"],
                    said=first["predicted"],
                    band=tuple(first["band"]),
                    measured=tuple(each["measured"] for each in both),
                    intervals=tuple(tuple(each["measured_ci95"]) for each in both if each["measured_ci95"]),
                    others=first["textbook_errors"],
                )
            )
    return found


def page(results: Sequence[dict[str, Any]]) -> str:
    """Return docs/scorecard.md."""
    figures = scored(results)
    ran = {result["case"] for result in results}
    unsaid = [result for result in results if "failed" in result]
    busy = [result["load_average"] for result in results]
    lines = [
        "# Scorecard: predictions, said beforehand and measured afterwards",
        "",
        "Made by `scripts/bench scorecard`.",
        "",
        f"{len(ran)} of {len(CASES)} cases were run; the list was fixed before any of them, and "
        f"its SHA-256 is `{DIGEST}`. Servers are llama.cpp's own, with random weights, on a CPU. "
        + (
            f"Load averages before the cases, the case before included: {min(busy):.1f} to {max(busy):.1f} on {os.cpu_count()} cores. "
            if busy
            else ""
        )
        + f"A case that could be predicted was then measured twice, with {_requests(results)} requests a level (a full run takes "
        f"{FOR_P95}); what follows is against the mean of the two.{_days(results)}",
        "",
    ]
    lines += _tables(figures) if figures else ["No figure was scored in both runs of a case."]
    if unsaid:
        lines += [
            "",
            f"No prediction was made in {len(unsaid)} of them, for what the predicting run itself showed:",
            "",
        ]
        lines += [f"- {CASES[each['case']].label}: {_short(each['failed'])}" for each in unsaid]
    silent = [
        each for each in results if "scores" in each and not any(one.case.number == each["case"] for one in figures)
    ]
    if silent:
        lines += ["", "Predicted, but not scored:", ""]
        for each in silent:
            why = " ".join(each["scores"][0]["not_scored"] + each["scores"][1]["not_scored"]).strip()
            lines.append(f"- {CASES[each['case']].label}: {' '.join(why.split())}")
    return "\n".join(lines) + "\n"


def _days(results: Sequence[dict[str, Any]]) -> str:
    """Say when the cases were run, where not all were on one day: each shows the code of its day."""
    days = collections.Counter(result.get("day", EARLIER) for result in results)
    if len(days) < 2:
        return ""
    told = ", ".join(f"{count} on {day}" if day != EARLIER else f"{count} {day}" for day, count in sorted(days.items()))
    return f" Each case shows what the code of its day could do: {told}. A result replaces an earlier one of the same case."


def _short(sentence: str) -> str:
    """Return why nothing was predicted, without what is the same in every case."""
    text = sentence.removeprefix("loadtest: ").removeprefix("No prediction: ").split("; none of")[0].rstrip(".")
    return re.sub(r" of /\S+", "", text) + "."


def _tables(figures: Sequence[Scored]) -> list[str]:
    """Return the table of goals, the one of the textbook's models, and the one of every figure."""
    heads = ("figure", "load", "cases", "within", "inside the 95 % band", "median error", "two runs apart")
    lines = ["| " + " | ".join(heads) + " |", "|---|---|---:|---|---:|---:|---:|"]
    closed = [each for each in figures if each.case.users is not None]
    opened = [each for each in figures if each.case.users is None]
    for name, (words, shares, goals) in GOALS.items():
        for load, some in (("all", figures), ("closed loop", closed), ("open loop", opened)):
            mine = [each for each in some if each.figure == name]
            if mine:
                lines.append(_summary_row(words, load, mine, shares, goals))
    lines += [
        "",
        RULE,
        "",
        "## Beside the textbook",
        "",
        BESIDE,
        "",
        "| figure | model | cases | the model | loadtest |",
        "|---|---|---:|---:|---:|",
        *_rows_beside(figures),
        "",
        "## Every case",
        "",
        EVERY,
        "",
        f"| case | {' | '.join(words for words, _, _ in GOALS.values())} |",
        f"|---|{'---:|' * len(GOALS)}",
    ]
    cases = dict.fromkeys(each.case.number for each in figures)
    return lines + [_row([each for each in figures if each.case.number == number]) for number in cases]


def _requests(results: Sequence[dict[str, Any]]) -> str:
    counts = sorted({result["requests"] for result in results})
    return " or ".join(map(str, counts)) or "no"


def _rows_beside(figures: Sequence[Scored]) -> list[str]:
    """Return a row for each figure and textbook model: the errors of both where the model says something."""
    rows = []
    for name, (words, _, _) in GOALS.items():
        for model in TEXTBOOK:
            pairs = [
                (error, each.error)
                for each in figures
                if each.figure == name and (error := each.other_error(model)) is not None
            ]
            if pairs:
                theirs, ours = zip(*pairs, strict=True)
                rows.append(f"| {words} | {model} | {len(pairs)} | {_spread(theirs)} | {_spread(ours)} |")
    return rows


def _spread(errors: Sequence[float]) -> str:
    """Return the median and the 90th percentile of absolute errors."""
    sizes = sorted(map(abs, errors))
    return f"{statistics.median(sizes):.1%}, {sizes[math.ceil(0.9 * len(sizes)) - 1]:.1%}"


def _summary_row(words: str, load: str, mine: Sequence[Scored], shares: Sequence[float], goals: Sequence[float]) -> str:
    within = "; ".join(
        f"{sum(each.within(share) for each in mine)} within {share:.0%} (goal {goal:.0%})"
        for share, goal in zip(shares, goals, strict=True)
    )
    inside = sum(each.band[0] <= each.value <= each.band[1] for each in mine)
    cells = [words, load, str(len(mine)), within, f"{inside} of {len(mine)}", _middle([each.error for each in mine])]
    cells.append(_middle([each.apart for each in mine]))
    return "| " + " | ".join(cells) + " |"


def _middle(errors: Sequence[float]) -> str:
    return f"{statistics.median(map(abs, errors)):.1%}"


def _row(figures: Sequence[Scored]) -> str:
    """Return a case's errors, in bold where the band does not hold the figure."""
    said = {
        each.figure: f"{each.error:+.1%}" if each.band[0] <= each.value <= each.band[1] else f"**{each.error:+.1%}**"
        for each in figures
    }
    return "| " + " | ".join((figures[0].case.label, *(said.get(name, "–") for name in GOALS))) + " |"


def read(path: Path) -> list[dict[str, Any]]:
    """Return the latest result of each of these cases in a file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = {result["case"]: result for line in lines if (result := json.loads(line))["digest"] == DIGEST}
    return [results[case] for case in sorted(results)]


def main(arguments: list[str]) -> None:
    """Run cases, add their results to docs/scorecard.jsonl, and write the page."""
    parser = argparse.ArgumentParser(prog="scripts/bench scorecard", description=__doc__)
    parser.add_argument(
        "--cases", default="", help="numbers of cases to run, e.g. 0,7,12 (default: those without a result)"
    )
    parser.add_argument("--most", type=int, default=len(CASES), help="how many at most (default: all)")
    parser.add_argument("--requests", type=int, default=FOR_P95, help="of each measured level (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the cases and their digest, and run none")
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join(f"{case.number:2} {case.label}" for case in CASES), f"\nSHA-256 {DIGEST}")
        return
    done = {result["case"] for result in read(RESULTS)}
    wanted = [int(part) for part in asked.cases.split(",") if part] or [
        each.number for each in CASES if each.number not in done
    ]
    for number in wanted[: asked.most]:
        print(f"case {number}: {CASES[number].label}", flush=True)
        with tempfile.TemporaryDirectory(prefix="loadtest-scorecard-") as folder:
            result = measure(CASES[number], Path(folder), asked.requests)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        PAGE.write_text(page(read(RESULTS)), encoding="utf-8")
    PAGE.write_text(page(read(RESULTS)), encoding="utf-8")
