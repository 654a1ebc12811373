"""An explanation in words: a line a part, whose doing it was, and what the time would have been without."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from loadtest.analyse.explain import time_parts
from loadtest.analyse.explain.explanation import CACHE, MODEL_LOAD, NOBODY, Explanation, Without
from loadtest.analyse.explain.time_parts import Cause, TimePart
from loadtest.doubts import VOID
from loadtest.grid import Grid
from loadtest.records import Outcome
from loadtest.text import UNKNOWN, between, capitalised, counted, listed, number, seconds

MOST_NAMED = 3  # requests in one line
NAMED_SHARE, COUNTED_SHARE = 0.1, 0.01  # of a part, below which a cause is only counted, and not even that
LONG_SHARE = 0.5  # of a slot wait, from where on a long prompt that was read meanwhile is named before who held slots
LARGE = 2.0  # times the median of its level, from which on a request's length is told
SHORT_NAMES = {
    time_parts.CLIENT: "client",
    time_parts.CONNECT: "connecting",
    time_parts.RESENT: "sent again",
    time_parts.HANDLING: "handling",
    time_parts.MODEL_LOAD: "model load",
    time_parts.TURN: "model's turn",
    time_parts.BEHIND: "held back",
    time_parts.CONNECTION_WAIT: "connection wait",
    time_parts.SLOT: "slot wait",
    time_parts.WAIT: "queue wait",
    time_parts.PROMPTS: "others' prompts",
    time_parts.SILENT: "request without tokens",
    time_parts.PAUSE: "pause",
    time_parts.STEP: "step in flight",
    time_parts.REREAD: "lost cache",
    time_parts.OWN: "own prompt",
    time_parts.SLOW: "slower than usual",
    time_parts.REST: "unexplained",
}
EXPENDABLE = ("E2E", "by", "TTFT without")
PLAIN_WORDS = {  # of parts that are always said alike
    time_parts.CLIENT: "before the client sent it, although it was due",
    time_parts.CONNECT: "opening a connection",
    time_parts.RESENT: "until it was sent again: the connection that was kept had died",
    time_parts.HANDLING: "before the server queued it",
    time_parts.TURN: "until its model's turn came: answers of another model, and the model load",
    time_parts.BEHIND: "until the last request was taken in that came after it: it was held back on its way, or passed over; which is "
    "not known",
    time_parts.CONNECTION_WAIT: "most of it until an idle connection had been closed, as the server or a gateway takes no more at once",
    time_parts.WAIT: "before its prompt was read: for a slot, for a running step or on its way; which is not known",
    time_parts.PAUSE: "while no stream of {of} got a token, which none of its requests explains",
    time_parts.SLOW: "longer than such prompts take here, which no request of {of} explains",
}


GONE = {Outcome.CANCELLED: "stopped", Outcome.LEFT: "its user hung up"}


def heading(found: Explanation) -> str:
    who = f"Request {found.id} of {found.level['label']}"
    if not math.isfinite(found.ttft_s):
        ended = found.outcome.replace("_", " ") + (f" ({found.error.rstrip('.')})" if found.error else "")
        ended = GONE.get(Outcome(found.outcome), ended)
        return f"{who}: no token in {seconds(found.parts.total_s)}, then {ended}"
    usual = f" (median TTFT of the others: {seconds(found.usual_s)})" if math.isfinite(found.usual_s) else ""
    # E2E counts from the send, and the time to the first token here from when it was due.
    decoded_s = found.e2e_s - found.ttft_s
    whole = f", {seconds(found.parts.total_s + decoded_s)} in all" if math.isfinite(decoded_s) else ""
    return f"{who}: {seconds(found.parts.total_s)} to the first token{usual}{whole}"


def rows(found: Explanation, parts: Sequence[TimePart]) -> list[tuple[str, str]]:
    """Return these parts of its time: how long, and what. The unexplained rest is always there."""
    shown = [part for part in parts if part.seconds >= time_parts.LEAST_S or part.name == time_parts.REST]
    return [(_duration(part.seconds), _words(part, found)) for part in shown]


def decode_heading(found: Explanation) -> str | None:
    """Say how long the rest of the answer took; None where there was none."""
    if not found.parts.decode or found.parts.decode_s < time_parts.LEAST_S:
        return None
    more = (found.output_tokens or 1) - 1
    tokens = f" for {counted(more, 'more token')}" if more else ""
    return f"Then {seconds(found.parts.decode_s)}{tokens}"


def _duration(value: float) -> str:
    return seconds(value).replace("-", "−") if abs(value) >= time_parts.LEAST_S else "0 ms"


def _words(part: TimePart, found: Explanation) -> str:
    who, inferred = part.causes, " (inferred)" if part.inferred else ""
    match part.name:
        case name if name in PLAIN_WORDS:
            return PLAIN_WORDS[name].format(of=found.of)
        case time_parts.MODEL_LOAD:
            asked = f", which #{who[0].id} had asked for first" if who else ""
            return f"while its model was loaded{asked}"
        case time_parts.SLOT:
            return _slot_words(part, found) + inferred
        case time_parts.PROMPTS | time_parts.STALL:
            return f"while {_prompts_read(who, part, found)}{inferred}"
        case time_parts.SILENT:
            names = _names(who, part.seconds, _large(who, found))
            verb = "were" if " and " in names else "was"
            return f"while {names} {verb} at the server, which ended without a token{inferred}"
        case time_parts.STEP:
            many = f"{part.streams} streams" if (part.streams or 0) > 1 else "stream"
            return f"until the running step of the {many} that decoded was over"
        case time_parts.REREAD:
            return _reread_words(found) + inferred
        case time_parts.OWN:
            tokens = f"its own {_tokens(part.tokens)}" if part.tokens is not None else "its own prompt"
            beside = f", beside {counted(part.streams, 'stream')} that decoded" if part.streams else ""
            return f"reading {tokens}{beside}{inferred}"
        case time_parts.STEPS:
            streams = part.streams or 1
            return f"steps of up to {streams} streams" if streams > 1 else "its own steps"
        case time_parts.SHARED:
            return f"as up to {counted(part.streams or 0, 'stream')} shared the steps"
        case _:
            return "unexplained" if part.seconds > -time_parts.LEAST_S else "unexplained: the parts come to more"


def _slot_words(part: TimePart, found: Explanation) -> str:
    """Say behind whom it waited for a slot; a part of its causes are long prompts that held those up."""
    held = [each for each in part.causes if each.how == time_parts.SLOT]
    read = [
        each for each in part.causes if each.how == time_parts.PROMPTS and each.seconds >= NAMED_SHARE * part.seconds
    ]
    silent = [each for each in part.causes if each.how == time_parts.SILENT]
    queue = f", for which {counted(part.ahead, 'other')} waited already" if part.ahead else ""
    text = f"waiting for a slot{queue}" + (f"; slots were held by {_names(held, part.seconds)}" if held else "")
    if read:
        text += f"; {_prompts_read(read, part, found)} for {seconds(sum(each.seconds for each in read))} of it"
    if silent:
        sure = "probably" if len(silent) == 1 else "perhaps"
        text += f"; one {sure} by {_names(silent, part.seconds, _large(silent, found))}, which ended without a token"
    return text


def _reread_words(found: Explanation) -> str:
    lost = found.parts.lost
    if lost is None:
        return "reading again what the cache had lost"
    what = f"all {lost.of:,} tokens" if lost.tokens >= lost.of else f"{lost.tokens:,} of the {lost.of:,} tokens"
    text = f"reading again {what} that #{lost.before.id} had left in the cache"
    roots = [each.row for each in lost.newcomers]
    near = [each for each in lost.since if each.row not in roots]
    if near:
        own = "its own" if len(near) == 1 else "theirs"
        whom = f"to {_names(lost.newcomers, 0.0)}" if roots else "too, to whom is not known"
        return f"{text}; since then {_names(near, 0.0)} took a slot, having lost {own} {whom}"
    return f"{text}; since then {_names(lost.newcomers, 0.0)} took a slot" if roots else text


def _tokens(count: int | None) -> str:
    return "prompt" if count is None else f"{count:,} prompt token{'' if count == 1 else 's'}"


def _prompts_read(causes: Sequence[Cause], part: TimePart, found: Explanation) -> str:
    """Return "#52's 6,000 prompt tokens were read", or "the prompts of #52 (6,000 tokens), #53 and 2 others were read"."""
    if len(causes) == 1:
        tokens = causes[0].tokens
        return f"#{causes[0].id}'s {_tokens(tokens)} {'was' if tokens in (None, 1) else 'were'} read"
    return f"the prompts of {_names(causes, part.seconds, _large(causes, found))} were read"


def _large(causes: Sequence[Cause], found: Explanation) -> list[Cause]:
    return [each for each in causes if each.tokens is not None and each.tokens >= LARGE * found.usual_prompt]


def _names(causes: Sequence[Cause], whole: float, large: Sequence[Cause] = ()) -> str:
    """Name the requests that caused most; count the others."""
    named = [each for each in causes if each.seconds >= NAMED_SHARE * whole][:MOST_NAMED] or list(causes[:1])
    words = [f"#{each.id}" + (f" ({each.tokens:,} tokens)" if each in large else "") for each in named]
    rest = sum(each.seconds >= COUNTED_SHARE * whole for each in causes) - len(named)
    return listed([*words, *([counted(rest, "other")] if rest > 0 else [])])


# -- what if --------------------------------------------------------------------------------------------------------


def without(found: Explanation) -> str:
    """Say what the request would have taken without the cause that counts most, or why nothing is said."""
    if found.no_replay == NOBODY:
        return capitalised(f"{NOBODY}.")
    if found.no_replay is not None:
        return f"What it would have been without is not said: {found.no_replay}."
    told = found.told
    if told is None:
        if not found.without:
            return "What it would have been without is not said: no replay reaches its first token."
        return (
            f"Of {counted(len(found.without), 'cause')} left out in turn, none makes it clearly faster{_unsure(found)}."
        )
    likely, band = seconds(told.seconds + found.left_late_s), _band(told, found.left_late_s)
    return f"{capitalised(_left_out(told, found))}: {likely} to the first token ({band})."


def _unsure(found: Explanation) -> str:
    """Say what cannot be told of a cause that may count, in a clause; "" where none may."""
    one = found.unsure
    if one is None:
        return ""
    took = seconds(found.parts.total_s)
    return f": {_left_out(one, found)} it may have taken {_band(one, found.left_late_s)}, and measured it took {took}"


def _band(one: Without, left_late_s: float = 0.0) -> str:
    return between(*one.band, lambda ttft_s: seconds(ttft_s + left_late_s))


def others(found: Explanation) -> str | None:
    """Say what each other cause would have saved that was left out alone; None where there is no other."""
    rest = [each for each in found.worth if each is not found.told]
    if not rest:
        return None
    words = [f"{_left_out(each, found)} {seconds(each.seconds + found.left_late_s)}" for each in rest]
    return f"Each left out alone: {'; '.join(words)}."


def _left_out(one: Without, found: Explanation) -> str:
    if one.what == MODEL_LOAD:
        return "without the model load"
    if one.what == CACHE:
        who = f"without #{one.cause.id}, and " if one.cause else ""
        return f"{who}with the cache still holding what was lost"
    assert one.cause is not None, "a request that is left out"
    return f"without #{one.cause.id}{_size(one.cause, found)}"


def _size(cause: Cause, found: Explanation) -> str:
    """Say what is large about a request, and whether it was over before the explained one came."""
    words = []
    if cause.tokens is not None and cause.tokens >= LARGE * found.usual_prompt:
        words.append(f"{cause.tokens:,} prompt tokens")
    if cause.output is not None and cause.output >= LARGE * found.usual_output:
        words.append(f"{cause.output:,} output tokens")
    if cause.how == time_parts.QUEUE and cause.over < found.begin_s:
        words.append("over before it came, but others had queued behind it")
    return f" ({', '.join(words)})" if words else ""


BROKEN_OFF = {Outcome.LEFT: "Its user hung up in mid-answer", Outcome.CANCELLED: "The run stopped it in mid-answer"}


def notes(found: Explanation) -> Iterator[str]:
    if found.outcome != Outcome.OK and math.isfinite(found.ttft_s):
        why = found.outcome + (f": {found.error.rstrip('.')}" if found.error else "")
        ended = BROKEN_OFF.get(Outcome(found.outcome), f"Its answer broke off ({why})")
        yield f"{ended}, so what is told of it is no whole answer."
    if found.usual:
        nothing = (
            found.slow is None and found.told is None and not found.unsure and found.no_replay is None and found.without
        )
        load = ": this is the level's load rather than one request" if nothing else ""
        yield f"It took about as long to its first token as the others of its level{load}."
    if found.slow is not None:
        yield (
            f"Until its first token, steps that read no prompt took {number(found.slow.factor)} times as long as usual in this "
            f"run ({counted(found.slow.steps, 'token gap')}): something that no request of {found.of} shows slowed the server, or the way from it, down."
        )
    if found.dropped:
        ids = listed([f"#{each}" for each in found.dropped])
        yield f"{ids} ended without a token before: some of what is unexplained may be the server's work on that."
    if found.warmup:
        yield "It was a warm-up request, which no percentile and no mean of its level counts."
    yield from level_notes(found)


def level_notes(found: Explanation) -> Iterator[str]:
    """Yield what holds for every request of its level."""
    if found.reads_apart_s is not None and found.reads_apart_s >= time_parts.LEAST_S:
        yield (
            f"Tokens came several at once, {seconds(found.reads_apart_s)} apart, as a proxy that gathers them, a busy machine or steps of "
            "several tokens do: each part may be off by as much."
        )
    if found.level.gathered:
        yield "Something on the way gathers tokens or slows answers down: its steps, and what is unexplained, may be that."
    if found.beside:
        yield f"Requests to {listed(found.beside)} loaded the same server meanwhile, and are not named here."
    if found.level["verdict"] == VOID:
        yield "The level is void, so these times may not be the server's; `loadtest report` says why."


# -- a table of several ---------------------------------------------------------------------------------------------


def table(explained: Sequence[Explanation]) -> Grid:
    """Return a table, a row a request: its time, the greatest part of it, whose doing that was, and TTFT without it."""
    heads = ("request", "TTFT", "E2E", "most of it", "by", "TTFT without", "unexplained")
    return Grid(heads, tuple(_row(each) for each in explained))


def _row(found: Explanation) -> tuple[str, ...]:
    most = max(found.parts.first, key=lambda part: part.seconds)
    # a long prompt holds up all who hold a slot, so it comes before them
    by = sorted(
        most.causes, key=lambda each: each.how != time_parts.PROMPTS or each.seconds < LONG_SHARE * most.seconds
    )
    who = list(dict.fromkeys(each.id for each in by))
    told = found.told
    cause = f"#{told.cause.id}" if told and told.cause else ""
    return (
        f"#{found.id}",
        seconds(found.ttft_s) if math.isfinite(found.ttft_s) else f"> {seconds(found.parts.total_s)}",
        seconds(found.e2e_s),
        f"{SHORT_NAMES[most.name]} {seconds(most.seconds)}",
        (f"#{who[0]}" + (f" + {len(who) - 1}" if len(who) > 1 else "")) if who else UNKNOWN,
        f"{seconds(told.seconds)} ({cause or SHORT_WITHOUT[told.what]})" if told else UNKNOWN,
        _duration(found.parts.first[-1].seconds),
    )


SHORT_WITHOUT = {MODEL_LOAD: "model load", CACHE: "cache kept"}
