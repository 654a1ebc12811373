"""JSON of an answer, read by the strict parser where it can, else by the lenient one."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

_LONG = 400  # digits from which an integer is beyond every number that a server may mean


def parse_json(data: bytes) -> Any:
    """Return what `data` holds; None where neither parser can read it, and for null.

    Servers send what orjson refuses: lone surrogates, NaN and Infinity, raw control characters, bytes that are not UTF-8
    and numbers beyond a double. The lenient parser takes four times as long, so it is used for objects only.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _parse_leniently(data)


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a value: an object is one, a list of objects several, anything else none."""
    if isinstance(value, dict):
        return [value]
    found = value if isinstance(value, list) else []
    return found if all(isinstance(row, dict) for row in found) else []


def _parse_leniently(data: bytes) -> Any:
    begin = data.lstrip(b" \t\r\n")
    if not begin.startswith(b"{"):
        return None
    try:
        return json.loads(begin.decode(errors="replace"), strict=False, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < _LONG else math.inf
