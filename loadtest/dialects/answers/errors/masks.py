"""What differs from one answer to the next in a server's words: ids, instants, ports and durations, masked with "#"."""

from __future__ import annotations

import re

_IDS = re.compile(
    r"""\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b  # a UUID
    | \b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\ ?Z|\ ?UTC|\ ?[+-]\d\d:?\d\d)?  # an instant
    | \b(?:mon|tue|wed|thu|fri|sat|sun),?\ \d{1,2}[ -]\w{3}[ -]\d{4}\ \d\d:\d\d:\d\d(?:\ GMT|\ UTC)?  # as HTTP dates it
    | \b\d\d:\d\d:\d\d(?:[.,]\d+)?\b  # the time of day
    | \b(?:req|request|chatcmpl|cmpl|msg|resp|trace|run|gen|task|job|embd)[-_](?=[\w-]*\d)[\w-]{6,}  # a prefixed id
    | \b0x[0-9a-f]{6,}\b  # where an object lies in memory
    | \b(?=[a-f]*\d)[0-9a-f]{12,}\b  # a hash, a long counter, an instant in ms or ns
    | \b(?=(?:[a-z]*\d){4})[a-z0-9]{20,}\b  # letters and digits, such as a ULID
    | (?:(?<=\d:)|(?<=\]:)|(?<=',\ ))(?:3[2-9]\d{3}|[4-6]\d{4})\b  # a port that the system chose, behind an address
    | \b\d{9,}(?:\.\d+)?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAMED = re.compile(
    r"""((?<![a-z])(?:request|trace|correlation|session|ray|incident|transaction|activity|span|tracking|log)[ _-]?(?:id|uuid)
        ["']?\s*(?:is\s+|[:=]\s*|\s)["']?
      | \breference\s*(?:no\.?|number)?\s*[:\#]+\s*)
    (?=[\w./+=:-]*\d)[\w./+=:-]{3,}(?<![.:])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_COUNTED = re.compile(
    r"""((?<!per\ )(?<!each\ )(?<!a\ )
        (?<![a-z])(?:request|req|task|job|slot|pid|process|thread|attempt|worker|sequence|seq|connection|conn|stream)
        (?:[ _-]?(?:id|number|no\.?|num)["']?\s*[:=\#]?\s*|[ =]\#?|\#))\d+\b(?!\.\d)
      | (\b(?:Used|Requested):?\ )\d+(?=[,.])  # of a limit of tokens
    """,
    re.IGNORECASE | re.VERBOSE,
)
_A_TIME = r"\d+(?:\.\d+)?\ ?(?:ms|milliseconds?|s|secs?|seconds?|m|min(?:ute)?s?|h|hours?|days?)"
_TIMES = re.compile(
    rf"""((?:again|retry|retried|wait|resets?|available)\b[^.;:\#\d]{{0,30}}?\b(?:in|after|for|at\ least)\ )(?:{_A_TIME})+\b
    | (?!\d+\.0+\b)\b\d+\.\d+(?=\ ?(?:s|secs?|seconds?|min(?:ute)?s?)\b)  # a measured time has a fraction
    | (?<!of\ )\b\d+(?:\.\d+)?(?=\ ?(?:milliseconds?|[mµμ]s)\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def masked(text: str) -> str:
    """Return `text` with "#" in place of what differs in every answer, so that equal failures read alike.

    A number that may be a limit or a length stays, and so does a time of whole seconds that is not one to wait.
    """
    for pattern in (_IDS, _NAMED, _COUNTED, _TIMES):
        text = pattern.sub(lambda found: f"{''.join(filter(None, found.groups()))}#", text)
    return text
