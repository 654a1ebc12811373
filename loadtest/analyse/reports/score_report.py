"""A prediction held against a run: what can be scored, what cannot and why, in tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.comparison import comparable
from loadtest.analyse.run import LevelData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.model.cases import AS_KNOWN
from loadtest.analyse.whatif.model.predict import WHO_FAIL, WHO_WAIT
from loadtest.analyse.whatif.model.seeded_run import SeededRun
from loadtest.analyse.whatif.predictions.predict_loads import length_of
from loadtest.analyse.whatif.predictions.prediction_file import (
    FILE_NAME,
    Case,
    Document,
    PredictedLoad,
    file_digest,
    parse_document,
)
from loadtest.analyse.whatif.predictions.score import FIGURE_NAMES, ScoredFigure, median_error, score_case
from loadtest.analyse.whatif.predictions.textbook import ERLANG, LINE, SEGMENTS, USL
from loadtest.doubts import VOID
from loadtest.errors import LoadTestError, PredictionError
from loadtest.grid import Grid
from loadtest.records import Outcome
from loadtest.text import UNKNOWN, between, counted, instant, listed, percent, signed, size, writer_of

NOT_OURS = ("arrivals", "server")  # a prediction says for which arrivals it is; of the server only the kind counts
MODELS = (ERLANG, USL, LINE, SEGMENTS)
CACHED_SHARE = "cached_share.mean"
CHANCE = 3.0  # standard errors by which mean lengths may differ
MANY_MORE = 1.25  # times as many requests, from where on a band for the others is another one
EXPENDABLE = ("Winkler", *reversed(MODELS))


@dataclass(frozen=True, slots=True)
class Score:
    made: str
    before: str | None  # when the run kept it, before its first request; None: it did not
    figures: tuple[ScoredFigure, ...]
    said: tuple[str, ...]  # what was not scored, and why
    sha256: str  # of the run that the prediction rests on

    def to_dict(self) -> dict[str, Any]:
        """Return summary.json's `prediction`."""
        return {
            "made": self.made,
            "kept_before_the_first_request": self.before,
            "rests_on_sha256": self.sha256,
            "figures": [each.to_dict() for each in self.figures],
            "not_scored": list(self.said),
        }


def score(document: Document, analysis: Analysis, before: str | None = None) -> Score:
    run = analysis.run
    refused, said = _may_be_compared(document, analysis)
    figures: list[ScoredFigure] = []
    for level in analysis.levels if not refused else ():
        loads = [
            each for each in document.loads if (each.concurrency, each.rate) == (level["concurrency"], level["rate"])
        ]
        if not loads:
            said.append(f"{level['label']}: not predicted.")
        elif document.plan is not None and (why := _other_requests(document, document.plan, analysis, level)):
            said.append(f"{level['label']}: not scored: {why}.")
        elif level["verdict"] == VOID:
            said.append(f"{level['label']}: void, so not scored.")
        elif why := _other_load(document, analysis, level):
            said.append(f"{level['label']}: not scored: {why}.")
        else:
            for load in loads:
                found, notes = _scored(document, load, analysis, level)
                figures += found
                said += notes
    measured = {(level["concurrency"], level["rate"]) for level in analysis.levels}
    left = [each.label for each in document.loads if (each.concurrency, each.rate) not in measured]
    if left and not refused:
        said.append(f"Predicted, and not measured in {run.name}: {listed(list(dict.fromkeys(left)))}.")
    return Score(document.made, before, tuple(figures), (*refused, *said), document.run["sha256"])


def _may_be_compared(document: Document, analysis: Analysis) -> tuple[list[str], list[str]]:
    """Return why nothing of a run is scored (empty: it may be), and notes on what differs."""
    run = analysis.run
    if analysis.groups:
        return [f"Not scored: {run.name} went to several models or servers, and a prediction is for one."], []
    ours = {key: value for key, value in document.run["facts"].items() if key not in NOT_OURS}
    theirs = {key: value for key, value in comparable.asked_facts(run).items() if key not in NOT_OURS}
    refused, notes = comparable.differing_facts(ours, theirs, frozenset())
    servers = [str(facts.get("server") or "none") for facts in (document.run["facts"], comparable.asked_facts(run))]
    if servers[0].split(" ")[0] != servers[1].split(" ")[0]:
        refused.append(f"server ({' → '.join(servers)})")
    if refused:
        return [f"Not scored: the run differs from the one predicted from in {', '.join(refused)}."], []
    loaded = document.run.get("loaded"), run.fact("server_at_end", "size")
    if any(each.slots_asked for each in document.loads):
        loaded = None, None
    for what, before, now, why in (
        ("server", *servers, ""),
        ("driver", document.run.get("driver"), run.facts.get("driver"), ""),
        ("url", document.run.get("url"), run.fact("target", "url"), ": a prediction is for one machine"),
        (
            "memory of the loaded model",
            *(each and size(each) for each in loaded),
            ", as with other slots or another KV cache",
        ),
    ):
        if before and now and before != now:
            notes.append(f"Differs: {what} ({before} → {now}){why}.")
    return [], notes


def _other_load(document: Document, analysis: Analysis, level: LevelData) -> str:
    """Say why a level is another load than the one predicted; empty where it is the same."""
    if level["outcomes"].get(Outcome.LEFT):
        return f"its users hung up, and {WHO_WAIT.removesuffix('.')}"
    if level.many_failed:
        return f"{level.failed} of its {counted(level['requests'], 'request')} failed, and {WHO_FAIL.removesuffix('.')}"
    if level.is_open:
        pattern = analysis.run.fact("comparability", "arrivals")
        if level.get("rate_to") is not None or level.get("trace") or pattern not in (None, "poisson"):
            return "its arrivals are not Poisson at one rate, as a prediction takes them"
    for column, name, share, least in (
        ("prompt_tokens", "prompts", comparable.CALIBRATION_SHARE, comparable.CALIBRATION_TOKENS),
        ("output_tokens", "answers", comparable.SAME_LENGTH_SHARE, 0),
    ):
        known = document.run["lengths"].get(column)
        found = length_of(analysis.run, analysis.run.good(level["index"]), column)
        if known is None or found is None:
            continue
        if document.plan is not None:
            known = _drawn_for_plan(known, found["asked"], answers=column == "output_tokens")
        mean, spread, said = found["mean"], found["deviation"], known["deviation"]
        error, tolerated = math.sqrt(1 / found["n"] + 1 / max(known["n"], 1)), max(share * known["mean"], least)
        if abs(mean - known["mean"]) > max(tolerated, CHANCE * said * error):
            return f"its {name} have {mean:.0f} tokens on average, and the prediction is for {known['mean']:.0f}"
        # the spread of a few lengths with a long tail is any: it tells nothing where the same ones were asked for
        if abs(spread - said) > max(tolerated, CHANCE * max(spread, said) * error) and not _asked_alike(
            document, level
        ):
            return (
                f"its {name} have {mean:.0f} ± {spread:.0f} tokens (a standard deviation), and the prediction is for "
                f"{known['mean']:.0f} ± {said:.0f}"
            )
    return ""


def _drawn_for_plan(known: dict[str, Any], asked: float | None, *, answers: bool) -> dict[str, Any]:
    """Return the lengths with which a plan's very requests were predicted: those drawn for it, not those of the predicting run.

    A prompt is predicted to have the chat template's tokens more than asked for. An answer is predicted to be as long as asked
    for, where answers of the predicting run were.
    """
    before = known.get("asked")
    if asked is None or before is None:
        return known
    more = known["mean"] - before
    return known if answers and abs(more) > comparable.SAME_LENGTH_SHARE * before else {**known, "mean": asked + more}


def _asked_alike(document: Document, level: Mapping[str, Any]) -> bool:
    """Whether a level asked for the lengths that the predicting ones did, as their labels name them."""
    lengths = [label.partition(" · ")[2] for label in (*document.rests_on["levels"], level["label"])]
    return lengths[-1] in lengths[:-1]


def _other_requests(document: Document, plan: SeededRun, analysis: Analysis, level: Mapping[str, Any]) -> str:
    """Say what a level sent in place of the very requests that were predicted; empty where it sent these."""
    seed = analysis.run.scenario.get("seed")
    sent = next(each for each in analysis.run.levels if each["index"] == level["index"]).get("requests")
    if seed != plan.seed or sent != plan.requests:
        return (
            f"it sent {UNKNOWN if sent is None else sent} requests of seed {seed}, and the prediction is of "
            f"{plan.requests} of seed {plan.seed}, as `loadtest run --prediction` sends them"
        )
    closed, rates = ([getattr(each, key) for each in document.loads] for key in ("concurrency", "rate"))
    loads = [each for each in dict.fromkeys(rates if level["concurrency"] is None else closed) if each is not None]
    if loads.index(level["rate"] if level["concurrency"] is None else level["concurrency"]) != level["index"]:
        return f"its requests are drawn for level {level['index'] + 1} of a run; measure {listed(loads)} in this order"
    return ""


def _has_other_slots(slots: Slots, case: Case, load: PredictedLoad) -> bool:
    """Whether a server is known to have other slots than a case takes, where that matters to the load."""
    if slots.number is None:
        return case.slots is not None and (slots.estimate or 0) > case.slots
    nobody_waits = case.slots is None and load.concurrency is not None and load.concurrency <= slots.number
    return case.slots != slots.number and not nobody_waits


def _case_name(load: PredictedLoad, case: Case) -> str:
    return f"{load.label}{f' ({case.name})' if len(load.cases) > 1 else ''}"


def _scored(
    document: Document, load: PredictedLoad, analysis: Analysis, level: LevelData
) -> tuple[list[ScoredFigure], list[str]]:
    """Score the cases of a load that the run's slots allow; say which they do not."""
    slots = analysis.known_slots
    found: list[ScoredFigure] = []
    notes = []
    for case in load.cases:
        if _has_other_slots(slots, case, load):
            said = "without a limit of slots" if case.slots is None else f"for {counted(case.slots, 'slot')}"
            notes.append(f"{_case_name(load, case)}: not scored: predicted {said}, and the server has {slots}.")
            continue
        found += score_case(load.label, case, load.textbook, level)
        notes += _other_amounts(document, load, case, level)
        notes += _cached_share(load, case, level)
        if case.grows:
            notes.append(
                f"{load.label}: the queue was said to grow, so the figures depend on how long the level lasts."
            )
    scored = {each.figure for each in found}
    left = [
        words
        for each, words in FIGURE_NAMES.items()
        if each not in scored and any(each in case.figures for case in load.cases)
    ]
    if found and left:
        notes.append(f"{level['label']}: too few requests, or none, show {listed(left)}: not scored.")
    return found, notes


def _other_amounts(document: Document, load: PredictedLoad, case: Case, level: LevelData) -> list[str]:
    """Say that a level had other numbers of requests, or of warm-ups, than the run of which its figures were said."""
    name, sent = _case_name(load, case), level["requests"]
    notes = []
    if case.requests and not 1 / MANY_MORE <= sent / case.requests <= MANY_MORE:
        notes.append(
            f"{name}: {counted(sent, 'request')} measured, and the prediction is for {case.requests}: its bands are for so many."
        )
    said, had = document.run.get("warmup"), level["warmup_requests"] > 0
    if load.concurrency is not None and said is not None and said != had:
        told = (
            "no warm-up, and the prediction is for a run with it"
            if said
            else "a warm-up, and the prediction is for none"
        )
        notes.append(f"{name}: measured with {told}.")
    return notes


def _cached_share(load: PredictedLoad, case: Case, level: Mapping[str, Any]) -> list[str]:
    """Say how the predicted cached share fared: a share of nearly nothing has no error in %, so it has no row of its own."""
    measured, said = level.get("cached_share"), case.figures.get(CACHED_SHARE)
    if measured is None or said is None:
        return []
    low, high = case.bands[CACHED_SHARE]
    inside = "inside" if low <= measured <= high else "outside"
    band = between(low, high, percent)
    shares = f"{percent(said)} said, {percent(measured)} measured"
    return [f"{_case_name(load, case)}: cached share {shares}, {inside} its band ({band})."]


def table(figures: Sequence[ScoredFigure]) -> Grid:
    """Return a row a figure, the load in the first of its rows: said, its band, measured, error, and the errors of the textbook's models."""
    models = [name for name in MODELS if any(name in each.others for each in figures)]
    loads = [each.load if each.case == AS_KNOWN else f"{each.load} ({each.case})" for each in figures]
    rows = tuple(
        (
            "" if load == before else load,
            FIGURE_NAMES[each.figure],
            writer_of(each.figure)(each.said),
            between(*each.band, writer_of(each.figure)),
            writer_of(each.figure)(each.measured),
            signed(each.error),
            "yes" if each.inside else "no",
            percent(each.winkler),
            *(signed(each.others[name]) if name in each.others else UNKNOWN for name in models),
        )
        for each, load, before in zip(figures, loads, (None, *loads), strict=False)
    )
    return Grid(
        ("load", "figure", "said", "95 % band", "measured", "error", "inside", "Winkler", *models), rows, names=2
    )


def heading(found: Score) -> str:
    when = f"kept before the first request, {instant(found.before)}" if found.before else "the run did not keep it"
    return f"Prediction of {instant(found.made)}, scored ({when})"


def sentence(found: Score) -> str | None:
    """Sum the score up in one sentence; None where nothing was scored."""
    if not found.figures:
        return None
    inside = sum(each.inside for each in found.figures)
    text = f"{inside} of {len(found.figures)} predicted figures lie inside their 95 % bands"
    text += f"; the median error is {percent(median_error(found.figures) or 0.0)}."
    beside = [words for name in MODELS if (words := _error_beside(found.figures, name)) is not None]
    if beside:
        text += f" Textbook models, fitted to the same levels: {'; '.join(beside)}."
    return text


def _error_beside(figures: Sequence[ScoredFigure], model: str) -> str | None:
    """Say a textbook model's median error, and ours on the same figures where it says nothing of some."""
    same = [each for each in figures if model in each.others]
    theirs = median_error(same, model)
    if theirs is None:
        return None
    ours = median_error(same) or 0.0
    part = (
        "" if len(same) == len(figures) else f" of the {len(same)} that it predicts, loadtest {percent(ours)} of these"
    )
    return f"{model} {percent(theirs)}{part}"


def kept_score(analysis: Analysis) -> Score | None:
    """Return the score of the prediction that a run keeps in its folder; None where it keeps none.

    Raises PredictionError where the file is not the one that run.json names.
    """
    named = analysis.run.fact("prediction", "sha256")
    if not named:
        return None
    path = analysis.run.path / FILE_NAME
    try:
        body = path.read_bytes()
    except OSError:
        raise PredictionError(f"the prediction that {analysis.run.path} kept is not there any more ({path}).") from None
    if file_digest(body) != named:
        raise PredictionError(
            f"{path} is not the prediction that the run kept before its first request: run.json names another sha256, "
            "so it is not scored."
        )
    return score(parse_document(body, str(path)), analysis, kept_before(analysis, body))


def kept_before(analysis: Analysis, file: bytes) -> str | None:
    """Return when the run kept this very file, before its first request; None where it did not."""
    same = analysis.run.fact("prediction", "sha256") == file_digest(file)
    return str(analysis.run.fact("prediction", "kept") or "") or None if same else None


def add_score(analysis: Analysis) -> Grid | None:
    """Put the score of the prediction that a run kept into its summary, or why there is none; return its table."""
    try:
        found = kept_score(analysis)
    except LoadTestError as error:
        analysis.summary["prediction"] = {"reason": str(error)}
        return None
    if found is None:
        return None
    analysis.summary["prediction"] = found.to_dict() | {"sentence": sentence(found)}
    return table(found.figures) if found.figures else None
