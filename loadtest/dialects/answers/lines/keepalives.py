"""Signs of life: what servers and gateways send in a stream so that nothing on the way closes it, as data of events."""

from __future__ import annotations

import re

_DATALESS = (b"", b"event", b"id", b"retry")  # fields of an event that hold no data; a comment has no name
_WORD = rb"(?:ping|pong|keep[-_ ]?alive|heart[-_ ]?beat)"
_STATE = rb"(?:(?:process|wait|load|think|connect|start|generat|work|warm|prepar|queu)(?:ing|ed|e)?|pending|begin|ready|open)"
_OF_STATE = rb"(?:[\s.,:;-]+(?!fail|err|timed|abort|cancel|unable|cannot)[a-z]+){0,4}"
_AMOUNT = rb"[\s.:\#/(-]*(?:\d+(?:\.\d+)?\s*(?:ms|s|sec|seconds|%)?)?"  # how often, for how long, how far
_INSTANT = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z-]*"
_DATA = re.compile(
    rb"""
    (?: :.*                                        # a comment that a gateway framed as data: ": OPENROUTER PROCESSING"
      | null | undefined | none | nan | "" | \{\} | \[\] | true | false | ok | \.+ | \d+(?:\.\d+)?
      | [*.-]
      | ["\[(<]* %b [\])>".!:\s-]* (?:%b)?         # ping, [PING], "keep-alive", ping - 2024-04-07 20:20:50.55
      | %b %b                                      # heartbeat 12
      | "?%b"?
      | ["\[(<]* (?:[a-z]+\s+)? %b%b %b [\])>".]*  # [PROCESSING], connected, still loading the model: 50%%
      | \{\s*"(?:type|event|object)"\s*:\s*"(?:response\.)?%b".*
    )
    """
    % (_WORD, _INSTANT, _WORD, _AMOUNT, _INSTANT, _STATE, _OF_STATE, _AMOUNT, _WORD),
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def is_keepalive(data: bytes) -> bool:
    """Whether the data of an event says nothing but that the server lives."""
    return _DATA.fullmatch(data.strip()) is not None


def is_dataless(line: bytes) -> bool:
    """Whether a line of an answer brings nothing of it: a comment, another field of an event, a sign of life."""
    name, colon, data = line.strip().partition(b":")
    return not line.strip() or name in _DATALESS or (colon == b":" and name == b"data" and is_keepalive(data))
