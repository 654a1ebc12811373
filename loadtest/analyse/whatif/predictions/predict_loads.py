"""What is kept in prediction.json: predictions of the loads that were asked for, and of those that advice promises.

Which levels they rest on, with which slots, and what is said before any figure.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest import __version__
from loadtest.analyse.run import RunData, shared_parts
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.advice.slot_advice import Advice
from loadtest.analyse.whatif.model import self_check
from loadtest.analyse.whatif.model.bands import Figures
from loadtest.analyse.whatif.model.cases import AS_ASKED, AS_KNOWN, NO_LIMIT
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth
from loadtest.analyse.whatif.model.fit import NoWayError, fit_models, levels_used
from loadtest.analyse.whatif.model.predict import SLICED_WAY, Seeded, ServerModel
from loadtest.analyse.whatif.model.seeded_people import SeededPeople
from loadtest.analyse.whatif.model.seeded_run import SeededRequests, SeededRun
from loadtest.analyse.whatif.model.sessions import NO_HOST_CACHE, SIZED_HOST_CACHE, UNSEEN_HOST_CACHE
from loadtest.analyse.whatif.predictions.prediction_file import Case, Document, PredictedLoad
from loadtest.analyse.whatif.predictions.textbook import MeasuredLevel, textbook
from loadtest.doubts import VOID
from loadtest.errors import PredictionError
from loadtest.run_folder import RunFolder, utc_now
from loadtest.text import counted, listed

SINGLE_REQUESTS = "A rate is of single requests, each with as much of its prompt to read as the turns of this run had, whatever the rate."
MOST_NAMED = 6  # levels, and numbers of streams, in a sentence
SAID_PACE = 0.02  # by which paces differ: less is not worth a sentence
ASKED = {"prompt_tokens": "asked_input", "output_tokens": "asked"}  # by a length: the one asked for
WHY_CACHES = {  # by a case of the host cache that the run leaves open beside another
    SIZED_HOST_CACHE: (
        "The server's host cache lost nothing that was asked for again, so its size is not known: a load has a case for one "
        "that never fills and for one as large as seen."
    ),
    UNSEEN_HOST_CACHE: (
        "The run shows no host cache, but a small one need not have shown: a load has a case for each where they differ. Measure more people than "
        "slots, or for longer, for one figure."
    ),
    NO_HOST_CACHE: (
        "Whether the server keeps conversations outside its slots is not known: a load has a case for each where they differ. Measure more people "
        "than slots for one figure."
    ),
}


class AskedLoad(NamedTuple):
    """A load to predict: users of a closed loop or a rate, and slots in place of the server's own."""

    users: int | None
    rate: float | None
    slots: int | None
    place: int  # of its level in a run of all these users, or of all these rates


def predict_loads(
    run: RunData,
    found: Slots,
    steps: Steps,
    levels: Sequence[dict[str, Any]],
    facts: dict[str, Any],
    *,
    void: Sequence[str] = (),
    concurrencies: Sequence[int] = (),
    rates: Sequence[float] = (),
    slots: Sequence[int] = (),
    seeded: SeededRun | None = None,
) -> Document:
    """Predict every load with every number of slots asked for, each with its 95 % bands.

    Args:
        levels: of summary.json.
        facts: what another run must share with this one to be held against the prediction.
        void: labels of levels that the run has and that are left out here.
        slots: to predict for, in place of the server's own.
        seeded: the run to come, whose very requests are predicted.

    Raises PredictionError where the run says too little, or where the model does not give back the levels it rests on.
    """
    used = levels_used(run, levels)
    if slots and not concurrencies and not rates:
        top = max((level["concurrency"] for level in used if level["concurrency"]), default=None)
        concurrencies, rates = ([top], rates) if top else (concurrencies, [max(level["rate"] for level in used)])
    try:
        fitted = fit_models(run, found, steps, levels)
    except NoWayError as error:
        raise PredictionError(f"No prediction: {error}. Measure the loads that you ask about instead.") from None
    known, models, said = fitted.slots, fitted.models, list(fitted.ruled_out)
    first = next(iter(models.values()))
    seen = known.estimate or 0
    loads = [
        _predicted_load(
            models,
            load,
            used,
            known.number or max(seen, 1),
            None if seeded is None else _seeded(run, used[0], seeded, load, people=first.sessions is not None),
        )
        for load in _asked_loads(concurrencies, rates, slots)
    ]
    said += _unknown_cache(models, both=any(len(load.cases) > 1 for load in loads))
    if not known.limit:
        both = any(len({case.slots for case in load.cases}) > 1 for load in loads)
        said.insert(0, _unknown_limit(seen, run, void, both=both))
    if void:
        said.append(
            f"Void, so the prediction does not rest on {'it' if len(void) == 1 else 'them'}: {levels_in_words(void)}."
        )
    if rates and first.sessions is not None:
        said.append(SINGLE_REQUESTS)
    said += first.assumed
    return _document_of(
        run, known, steps, used, first, facts=facts, said=tuple(said), loads=tuple(loads), seeded=seeded
    )


def promise(
    run: RunData, advice: Advice, found: Slots, steps: Steps, levels: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> Document | None:
    """Return the prediction that advice promises, for every load that was measured; None where it promises nothing.

    `levels` and `facts` as in predict_loads.
    """
    if not advice.promised:
        return None
    used, known = levels_used(run, levels), known_slots(run, found)
    loads = tuple(
        PredictedLoad(
            load,
            None,
            advice.trial,
            (Case.of(AS_ASKED, said),),
            _textbook_beside(used, known.number or 1, load, None, advice.trial),
            advice.model.sessions is not None,
        )
        for load, said in advice.promised.items()
    )
    said = (f"Promised by loadtest advise for {advice.knob} {advice.trial}, with the lengths of this run.",)
    return _document_of(run, known, steps, used, advice.model, facts=facts, said=said, loads=loads)


def _document_of(
    run: RunData,
    known: Slots,
    steps: Steps,
    used: Sequence[dict[str, Any]],
    model: ServerModel,
    *,
    facts: dict[str, Any],
    said: tuple[str, ...],
    loads: tuple[PredictedLoad, ...],
    seeded: SeededRun | None = None,
) -> Document:
    """Return prediction.json of loads that were predicted with a model of this run; `facts` as in predict_loads."""
    return Document(
        made=utc_now(),
        loadtest=__version__,
        run={
            "name": run.name,
            "folder": run.path.resolve().name,
            "started": run.facts.get("started"),
            "url": run.fact("target", "url"),
            "driver": run.facts.get("driver"),
            "warmup": model.pattern.warmup,
            "loaded": run.fact("server_at_end", "size"),
            "sha256": RunFolder(run.path).digest(),
            "facts": facts,
            "simulated": run.simulated,
            "lengths": {
                column: length_of(run, run.good(*(level["index"] for level in used)), column)
                for column in ("prompt_tokens", "output_tokens")
            },
        },
        rests_on={
            "levels": [level["label"] for level in used if level["verdict"] != VOID],
            "slots": {"limit": known.number, "seen": known.estimate, "how": known.method},
            "way": model.way,
            "streams": model.streams,
            "step_law": steps.to_dict(),
            "step_errors": {str(streams): error for streams, error in model.step_errors.items()},
            "prefill_error": model.prefill_error,
            "growth_past_these_streams_known": model.slope_known,
        },
        said=said,
        loads=loads,
        plan=seeded,
    )


def _unknown_cache(models: dict[str, ServerModel], *, both: bool) -> list[str]:
    """Say why conversations are predicted with and without a host cache, where they are; else with which."""
    limited = {name: model for name, model in models.items() if name != NO_LIMIT}  # without a limit nothing is lost
    if len({model.sessions for model in limited.values()}) < 2:
        return []
    why = next(said for name, said in WHY_CACHES.items() if any(case.endswith(name) for case in limited))
    return [why if both else f"{why.partition(':')[0]}: predicted with {next(iter(limited))}."]


def _unknown_limit(seen: int, run: RunData, void: Sequence[str], *, both: bool) -> str:
    most = max((int(level.get("concurrency") or 0) for level in run.levels), default=0)
    again = "void levels again" if void else f"more than {counted(max(most, seen), 'stream')} at once"
    more = f"measure {again}, or with --probe-slots"
    told = " from the levels that are not void" if void else ""
    cases = (
        f" Every load past that has two cases, no limit and a limit of {seen}; neither stands for a limit in between. For one "
        f"figure, {more}."
    )
    unknown = f"How many requests the server handles in parallel is not known{told}: at least {seen}."
    return unknown + (cases if both else f" To know it, {more}.")


def _asked_loads(concurrencies: Sequence[int], rates: Sequence[float], slots: Sequence[int]) -> list[AskedLoad]:
    """Return every load asked for with every number of slots asked for."""
    loads: list[tuple[int | None, float | None, int]] = [
        (users, None, concurrencies.index(users)) for users in concurrencies
    ]
    loads += [(None, rate, rates.index(rate)) for rate in rates]
    return [
        AskedLoad(users, rate, each, place)
        for users, rate, place in dict.fromkeys(loads)
        for each in (dict.fromkeys(slots) or (None,))
    ]


def _seeded(run: RunData, used: dict[str, Any], seeded: SeededRun, load: AskedLoad, *, people: bool) -> Seeded:
    """Return what a run to come sends to a load: conversations where people hold them, else single requests."""
    kind = SeededPeople if people and load.users is not None else SeededRequests
    return kind.of(run, used, seeded, load.place)


def _predicted_load(
    models: dict[str, ServerModel],
    load: AskedLoad,
    used: Sequence[dict[str, Any]],
    servers: int,
    seeded: Seeded | None,
) -> PredictedLoad:
    if load.slots is not None:
        models = {AS_ASKED: next(iter(models.values()))}
    elif load.users is None and len({model.slots for model in models.values()}) == 1:
        models = {AS_KNOWN: next(iter(models.values()))}  # of single requests no cache's size changes what is said
    cases = []
    for name, model in models.items():
        if load.users is not None:
            said = model.closed(load.users, slots=load.slots, seeded=seeded)
        else:
            said = model.open(load.rate or 0.0, slots=load.slots, seeded=seeded)
        cases.append(Case.of(name, allowing_for_growth(model, said)))
    alike = len({model.sessions for model in models.values()}) == 1
    nobody_waits = load.users is not None and load.users <= servers
    if len(cases) > 1 and ((nobody_waits and alike) or all(case.figures == cases[0].figures for case in cases)):
        cases = [dataclasses.replace(cases[0], name=AS_KNOWN)]
    people = any(model.sessions is not None for model in models.values()) or any(level.get("thinks") for level in used)
    beside = _textbook_beside(used, servers, load.users, load.rate, load.slots)
    return PredictedLoad(load.users, load.rate, load.slots, tuple(cases), beside, people)


def _textbook_beside(
    used: Sequence[dict[str, Any]], servers: int, users: int | None, rate: float | None, slots: int | None
) -> dict[str, Figures]:
    """Return what the textbook's models, fitted to the same levels, say of a load; `servers` slots were measured."""
    measured = [
        MeasuredLevel(level["concurrency"], self_check.as_measured(level, None).figures)
        for level in used
        if level["concurrency"] and level["verdict"] != VOID
    ]
    beside = textbook(measured, slots or servers, users=users, rate=rate)
    if slots not in (None, servers):  # the others know no slots
        beside = {name: figures for name, figures in beside.items() if name == "M/M/c"}
    return beside


def length_of(run: RunData, picked: NDArray[np.bool_], column: str) -> dict[str, Any] | None:
    """Return mean and standard deviation of a length over these requests, `n`, how many of them are drawn apart, and `asked`.

    The prompts of one conversation grow together: they count as one. `asked` is the mean that was asked for, None where not all were.
    """
    picked = picked & np.isfinite(run.column(column))
    values = run.column(column)[picked]
    if not len(values):
        return None
    n = len(values)
    if column == "prompt_tokens" and run.has_turns:
        n = len(np.unique(np.stack([run.column("level")[picked], run.column("session")[picked]]), axis=1).T)
    asked = float(run.column(ASKED[column])[picked].mean())
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "n": n,
        "asked": asked if math.isfinite(asked) else None,
    }


def levels_in_words(labels: Sequence[str]) -> str:
    """Name levels, what all of them share once, and of many the first and the last."""
    shared, names = shared_parts(labels)
    own = [names[label] for label in labels]
    again = [name if times == 1 else f"{times} levels at {name}" for name, times in Counter(own).items()]
    said = listed(again) if len(again) <= MOST_NAMED else f"{len(own)} levels from {own[0]} to {own[-1]}"
    return said + (f" ({shared})" if shared else "")


def describe_basis(document: Document) -> str:
    rests, slots = document.rests_on, document.rests_on["slots"]
    limit = counted(slots["limit"], "slot") if slots["limit"] else f"at least {counted(slots['seen'] or 0, 'slot')}"
    how = slots["how"].split("; ")[0]  # the file has every witness
    times = [entry["streams"] for entry in rests["step_law"]["times"]]
    said = listed(times) if len(times) <= MOST_NAMED else f"{len(times)} numbers from {times[0]} to {times[-1]}"
    way = rests.get("way", SLICED_WAY)
    pace = rests["step_law"].get("pace_error") or 0.0
    paces = (
        f" Its levels went at different paces: the bands allow for one that is {1 + pace:.2f} times as slow or as fast."
        if pace >= SAID_PACE
        else ""
    )
    return (
        f"Rests on {levels_in_words(rests['levels'])}; {limit} ({how}); step times of {said} {'stream' if said == '1' else 'streams'}"
        f"{'' if rests['growth_past_these_streams_known'] else ', whose growth is not known'}. "
        f"Of the ways servers work this one gives back the figures of these levels: {way}.{paces}"
    )
