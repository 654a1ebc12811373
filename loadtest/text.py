"""How numbers, units, counts and other people's text are written, once for sentences, tables, pages and charts.

The rule of rounding: a measured number has three significant digits and at most two decimals, never an exponent, and
commas from 10,000 on: 0.35, 1.91, 45.2, 1780, 12,300. A share is a whole percentage, below 10 % two significant digits:
86 %, 9.1 %, 0.12 %. A size has no zeros at its end: 42 GB, 1.05 GB; one in GiB is computed, not measured, and has its
hundredths. What a user gave (a limit, a rate) is `exact`: it keeps its digits and gains no zeros: 5 ms, 0.125 s.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "–"  # an unknown value in a table; a sentence says "unknown"
MIB, GIB = 2**20, 2**30
# 1.000 is a thousand to some and one to others, and nobody needs the zero for one
MAYBE_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}\.\d\d0(?!\d)")
_AMOUNT, _PLURAL = re.compile(r"([\d.]+) (.+)"), re.compile(r"s\b")


def number(value: float | None, *, exact: bool = False) -> str:
    """Return a number by the rule of rounding; a dash for None and nan."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if exact:
        return f"{value:.10g}" if abs(value) < 1e4 else f"{value:,.0f}"
    away = abs(value)
    if away >= 9999.5:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if away >= 99.95 else f"{value:.1f}" if away >= 9.995 else f"{value:.2f}"


def seconds(value: float | None, *, exact: bool = False) -> str:
    """Return a duration in the unit that reads well: µs below 0.1 ms, ms below a second, else s; "unknown" for None."""
    if value is None or math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "for ever"
    away = abs(value)
    if away < 5e-9:
        return "0 ms"
    factor, unit = (1.0, "s") if away >= 0.9995 else (1e3, "ms") if away >= 0.9995e-4 else (1e6, "µs")
    return f"{number(value * factor, exact=exact)} {unit}"


def between(low: float, high: float, written: Callable[[float], str]) -> str:
    """Return a band, "1.36 s to 2.67 s", and "up to 2.67 s" where nothing bounds it below: no time is zero."""
    return f"{written(low)} to {written(high)}" if low > 0 else f"up to {written(high)}"


def interval_words(low: float, high: float, most: float, write: Callable[[float], str]) -> str:
    """Return "102 ms to 327 ms", or "102 ms to over 327 ms" ("102 ms or more") where it goes past `most`, the largest value seen."""
    first, last = write(low), write(min(high, most))
    if high <= most or write(high) == first:
        return f"{first} to {last}"
    return f"{first} or more" if first == last else f"{first} to over {last}"


def about(value: float) -> str:
    """Return how long something will take, for people who wait: 40 s, 5 min, 2 h 10 min."""
    if value < 90:
        return f"{max(value, 1):.0f} s"
    minutes = math.ceil(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def instant(iso: str | None) -> str:
    """Return when something began that is written as ISO 8601 in UTC, as people read it: "2026-11-27, 23:52 UTC"."""
    return f"{iso[:10]}, {iso[11:16]} UTC" if iso else "start unknown"


def percent(share: float) -> str:
    """Return a share: "86 %", "9.1 %", "0.12 %"."""
    points = share * 100
    return f"{points:.0f} %" if abs(points) >= 9.95 or round(points, 10) == 0 else f"{points:.2g} %"


def read_amount(text: str, units: Mapping[str, float]) -> float:
    """Return what a number with one of these units behind it amounts to; nan for any other text."""
    digits = text.rstrip(f"{string.ascii_letters} ")
    try:
        return float(digits) * units[text[len(digits) :].strip()]
    except (KeyError, ValueError):
        return math.nan


def signed(share: float) -> str:
    """Return a change in percent with its sign: "+4.0 %", "−9.1 %", "0.0 %"."""
    text = f"{share * 100:+.1f}".replace("-", "−")
    return f"{text if text.strip('+−0.') else text[1:]} %"


def size(count: float | None) -> str:
    """Return measured bytes in GB, MB or kB (powers of ten); "unknown" for None."""
    if count is None:
        return "unknown"
    factor, unit = (1e9, "GB") if abs(count) >= 0.9995e9 else (1e6, "MB") if abs(count) >= 0.9995e6 else (1e3, "kB")
    if count == 0:
        return "0 MB"
    text = number(count / factor)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def binary_size(count: float) -> str:
    """Return computed bytes as GiB with its hundredths, in MiB below one."""
    return f"{count / GIB:.2f} GiB" if abs(count) >= GIB else f"{count / MIB:.1f} MiB"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return "1 stream", "2 streams"; `plural` where an s does not make it."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def some_of(count: int, whole: int, noun: str) -> str:
    """Return how many of all: "1 of 4 levels", "the only level", "both levels", "all 3 levels"."""
    if count < whole:
        return f"{count} of {counted(whole, noun)}"
    return f"the only {noun}" if whole == 1 else f"both {noun}s" if whole == 2 else f"all {whole} {noun}s"


def levels_are(count: int, whole: int) -> str:
    """Return the beginning of a sentence on some levels of a run: "1 of 4 levels is", "All 3 levels are"."""
    return f"{capitalised(some_of(count, whole, 'level'))} {'is' if count == 1 else 'are'}"


def rated(rate: float, noun: str = "request", form: str = "g") -> str:
    """Return "1 request/s", "2.5 requests/s"."""
    figure = format(rate, form)
    return f"{figure} {noun if figure == '1' else f'{noun}s'}/s"


def profile_at_speed(simulated: Mapping[str, Any]) -> str:
    """Return what a simulated server says that it is: "profile X at N× speed"."""
    return f"profile {simulated['profile']} at {float(simulated['speed']):g}× speed"


def listed(names: Sequence[object]) -> str:
    """Return "a", "a and b" or "a, b and c"; numbers of the same thing share its name: "1, 2 and 8 streams"."""
    words = [str(name) for name in names]
    amounts = [found for word in words if (found := _AMOUNT.fullmatch(word))]
    if (
        len(amounts) == len(words) > 1 == len({_PLURAL.sub("", found[2]) for found in amounts})
        and amounts[-1][1] != "1"
    ):
        words = [*(found[1] for found in amounts[:-1]), words[-1]]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def writer_of(key: str) -> Callable[[float], str]:
    """Return the function that writes a figure by its key in summary.json: `percent`, `number` or `seconds`."""
    return percent if "share" in key else number if "per_s" in key else seconds


def joined(separator: str, *parts: object) -> str:
    """Return the parts that say something, with the separator between them."""
    return separator.join(str(part) for part in parts if part)


def capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def after_colon(sentence: str) -> str:
    """Return a sentence with its first letter small, where its first word is not an abbreviation such as TTFT or E2E."""
    word = sentence.partition(" ")[0]
    return sentence if word[1:] != word[1:].lower() else sentence[:1].lower() + sentence[1:]


def shown(text: str) -> str:
    r"""Return `text` with what steers a terminal or hides written as an escape: \x1b, \u202e, \ud83d.

    Those are control characters, newlines and tabs too, bidirectional and zero-width marks and lone surrogates.
    Blanks of any width stay.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or (char.isspace() and char not in "\u2028\u2029\x85" and ord(char) > 0x1F)
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: bytes of a command line that are not UTF-8 arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def join_text(texts: Iterable[str]) -> str:
    """Join pieces of text; surrogates that meet become the character they stand for, lone ones U+FFFD.

    JSON may cut a character beyond U+FFFF in two halves, each in a piece of its own; a half alone cannot be encoded.
    """
    text = "".join(texts)
    return text if encodable(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
