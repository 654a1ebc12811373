"""Every formula in one place: durations from a Record's instants.

Instants are nanoseconds, results are seconds. Functions of instants and durations take scalars or NumPy arrays, so the live
line, the analysis and the Locust users compute the same figures with the same code. Definitions are those of vLLM's
`bench serve` where it has one. Each formula stands in its docstring and in FORMULAS, from which reports print it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

NS_PER_S = 1_000_000_000
S_PER_NS = 1e-9
S_PER_US = 1e-6

Interval = tuple[float, float]  # of 95 %: its lower and its upper end
NORMAL_95 = 1.96  # standard errors to either end of one whose error is known

FORMULAS: dict[str, str] = {
    "ttft_s": "t_first_token − t_send",
    "ttft_sched_s": "t_first_token − t_sched",
    "itl_s": "gaps between consecutive content events, all requests pooled",
    "tpot_s": "(E2E − TTFT) / (output tokens − 1), one per request",
    "e2e_s": "t_last_content − t_send",
    "e2e_sched_s": "t_last_content − t_sched",
    "stream_tokens_per_s": "1 / TPOT: the decode speed that a user sees",
    "e2e_tokens_per_s": "output tokens / E2E: the older convention, waiting included",
    "queue_wait_s": "Ollama: TTFT − model load − prompt eval; llama.cpp: t_headers − t_send, at most TTFT − prompt time; vLLM: queue_time_ms, at most TTFT − prefill",
    "slot_wait_s": "the part of queue wait while all slots are taken",
    "batch_wait_s": "the rest of queue wait, beside other requests: a slot is free, the batch in flight must end first",
    "load_s": "Ollama: load_duration",
    "prefill_s": "Ollama: prompt_eval_duration; llama.cpp: timings.prompt_ms; vLLM: metrics.time_to_first_token_ms",
    "prefill_tokens_per_s": "uncached prompt tokens / prefill (TTFT where no prefill is said), of prompts alone on the server",
    "stall_s": "what a decode lost to others' prompts: its gaps above the step time, while prompts were worked on",
    "delivery_delay_s": "arrival − created_at, less its smallest value in the run",
    "server_itl_s": "gaps between consecutive created_at",
    "schedule_lag_s": "t_send − t_sched, less the time in which a connection was opened for it",
    "lag_s": "client lag: max(handling − kernel stamp, longest gap between polls of the loop)",
}


def ttft(t_first_token: Any, t_send: Any) -> Any:
    """Time to first token: t_first_token − t_send. Seconds."""
    return (t_first_token - t_send) * S_PER_NS


def ttft_sched(t_first_token: Any, t_sched: Any) -> Any:
    """Time to first token from the intended instant: t_first_token − t_sched. Seconds."""
    return (t_first_token - t_sched) * S_PER_NS


def e2e(t_last_content: Any, t_send: Any) -> Any:
    """End-to-end latency: t_last_content − t_send (vLLM's E2EL). Seconds."""
    return (t_last_content - t_send) * S_PER_NS


def tpot(e2e_s: Any, ttft_s: Any, output_tokens: Any) -> Any:
    """Time per output token: (E2E − TTFT) / (output_tokens − 1). Seconds; pass nan for output_tokens ≤ 1."""
    return (e2e_s - ttft_s) / (output_tokens - 1)


def shows_no_decoding(pieces: Any, reads: Any, tpot_s: Any, ttft_s: Any) -> Any:
    """Whether an answer came in so few reads, or so fast after such a wait, that the time between is not the server's decoding."""
    few = (pieces >= HELD_BACK_PIECES) & (reads > 0) & (reads <= AT_ONCE_READS)
    return few | ((tpot_s < FASTEST_S) & (ttft_s >= HELD_BACK_S))


def stream_tokens_per_s(tpot_s: Any) -> Any:
    """Decode speed of one stream as its user sees it: 1 / TPOT. Tokens per second."""
    return 1 / tpot_s


def e2e_tokens_per_s(output_tokens: Any, e2e_s: Any) -> Any:
    """Output tokens / E2E, which includes waiting: the convention of older tables. Tokens per second."""
    return output_tokens / e2e_s


def schedule_lag(t_send: Any, t_sched: Any, connect_us: Any) -> Any:
    """How late the client sent a request: t_send − t_sched, less what opening a connection took. Seconds."""
    return (t_send - t_sched - connect_us * 1000) * S_PER_NS


def queue_wait_ollama(ttft_s: Any, load_s: Any, prefill_s: Any) -> Any:
    """Wait before the server began with the prompt, from Ollama's own durations: TTFT − model load − prompt_eval. Seconds.

    It may be slightly negative (rounding, scheduling), and readers clamp it at 0. On a real, busy one-core Ollama it was
    right to 10-20 ms. Only the native API reports durations; /v1 does not.
    """
    return ttft_s - load_s - prefill_s


def queue_wait_llamacpp(t_headers: Any, t_send: Any) -> Any:
    """Wait for a slot of llama.cpp's server, which sends headers when a slot takes the request: t_headers − t_send, s."""
    return (t_headers - t_send) * S_PER_NS


class ServerSaid(NamedTuple):
    """What a server reported about its work on one request; nan where it did not."""

    load_s: float
    prefill_s: float
    cached_tokens: float
    starts_with_headers: bool  # llama.cpp: it sends headers when a slot takes the request
    decode_s: float = math.nan  # from the first token to the last
    queue_s: float = math.nan  # vLLM: from when it had read the request until it took it up


# By which llama.cpp's timings are known; others have an object of that name, too.
_LLAMACPP_TIMINGS = frozenset(("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n"))
# Of vLLM started with --enable-per-request-metrics. Its time to first token counts from when it took the request up; of a
# server that says no time in a queue it may count from the request's arrival.
VLLM_METRICS = frozenset(("queue_time_ms", "time_to_first_token_ms", "generation_time_ms"))


def server_said(server: dict[str, Any]) -> ServerSaid:
    """Return what a record's `server` says; a duration that was not sent is unknown, never zero.

    Ollama itself always sends load and prompt_eval durations, but a proxy before several machines may send only the total.
    """
    timings = server.get("timings")
    usage = server.get("usage")
    cached = _cached_tokens(usage) if isinstance(usage, dict) else math.nan
    if isinstance(timings, dict) and not _LLAMACPP_TIMINGS.isdisjoint(timings):
        reused, read = (_server_number(timings.get(name)) for name in ("cache_n", "prompt_n"))
        if math.isnan(cached) and isinstance(usage, dict):  # of versions without cache_n: what was not read
            cached = max(_server_number(usage.get("prompt_tokens")) - read, 0.0)
        prefill, decode = (_server_number(timings.get(name)) / 1e3 for name in ("prompt_ms", "predicted_ms"))
        return ServerSaid(math.nan, prefill, cached if math.isnan(reused) else reused, True, decode)
    own = server.get("metrics")
    if isinstance(own, dict) and own.keys() >= VLLM_METRICS:  # what it serves is loaded
        names = ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms")
        prefill, decode, queued = (_server_number(own.get(name)) / 1e3 for name in names)
        return ServerSaid(0.0, prefill, cached, False, decode, queued)
    loading, prefill = (
        _server_number(server.get(name)) * S_PER_NS for name in ("load_duration", "prompt_eval_duration")
    )
    if math.isnan(cached):
        cached = _server_number(server.get("prompt_eval_cached_count"))
    return ServerSaid(loading, prefill, cached, False, _server_number(server.get("eval_duration")) * S_PER_NS)


# Of a usage or its details: OpenAI's and Moonshot's, DeepSeek's, Gemini's, Mistral's; all are part of the prompt's count.
# Whether Anthropic's cache_read_input_tokens are, where a gateway leaves them in OpenAI's usage, differs by the gateway.
CACHED_NAMES = ("cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount", "num_cached_tokens")
CACHED_PLACES = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details")
MAY_BE_LATE = "TTFT may hold its time"  # in the doubt of an answer with tokens that were not sent and are in no count


def _cached_tokens(usage: dict[str, Any]) -> float:
    """Return how many tokens of the prompt a usage says were in the cache."""
    places = [place for place in (*map(usage.get, CACHED_PLACES), usage) if isinstance(place, dict)]
    known = (_server_number(place[name]) for place in places for name in CACHED_NAMES if name in place)
    return next((number for number in known if not math.isnan(number)), math.nan)


def _server_number(value: Any) -> float:
    """Return a value of the server as a number; nan where it is not one or negative."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if known else math.nan


def queue_wait(t_send: float, t_headers: float, t_first_token: float, said: ServerSaid) -> float:
    """Return one request's wait before the server began with its prompt, at least 0; nan where unknown. Seconds.

    It is queue_wait_llamacpp or queue_wait_ollama; of vLLM no more than its time in the queue. An instant that never came is nan.
    """
    if said.starts_with_headers:
        wait = queue_wait_llamacpp(t_headers, t_send)
        if not math.isnan(said.prefill_s):  # on a busy core headers come late, when the prompt has been read
            wait = min(wait, ttft(t_first_token, t_send) - said.prefill_s)
    else:
        wait = queue_wait_ollama(ttft(t_first_token, t_send), said.load_s, said.prefill_s)
        wait = wait if math.isnan(said.queue_s) else min(wait, said.queue_s)
    return math.nan if math.isnan(wait) else max(float(wait), 0.0)


def made_together(server_us: Sequence[int] | None) -> bool:
    """Return whether the server made the first two tokens within a millisecond of each other, as Ollama does at times."""
    return server_us is not None and len(server_us) > 1 and server_us[1] - server_us[0] < 1000


PERCENTILES = {"p5": 0.05, "p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def enough_for(share: float, count: int) -> bool:
    """Return whether so many values are enough for a percentile: 20 for p5 and p95, 100 for p99, one for the median."""
    return count > 0 and (share == 0.5 or count * min(share, 1 - share) >= 1 - 1e-9)


def wilson_interval(some: int, whole: int) -> Interval | None:
    """Return the 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927); None of nothing."""
    if not whole:
        return None
    share, spread = some / whole, NORMAL_95**2 / whole
    middle = share + spread / 2
    reach = NORMAL_95 * math.sqrt(share * (1 - share) / whole + spread / whole / 4)
    low, high = ((middle + side) / (1 + spread) for side in (-reach, reach))
    return (low if some else 0.0), (high if some < whole else 1.0)


def needed(share: float) -> int:
    """Return how many values a percentile needs."""
    return 1 if share == 0.5 else math.ceil(1 / min(share, 1 - share) - 1e-9)


ONE_SIDE = 0.025  # chance that a 95 % interval's end is on the wrong side of the truth


def needed_beyond(share: float) -> int:
    """Return of how many independent values at least one lies beyond a percentile in all but 2.5 % of samples: 72 at p95."""
    return math.ceil(math.log(ONE_SIDE) / math.log(max(share, 1 - share)))


# Errors up to which `loadtest calibrate` calls a figure true, against what the server itself logged.
TRUE_WITHIN_S = 0.001  # errors of TTFT at p50 and p99, of ITL at p99
TRUE_WITHIN_SHARE = 0.01  # of the true median gap: error of ITL at p50
BIN_S = 0.01  # content events are counted in bins of this length for the busiest second


def highest(holds: Callable[[int], bool], most: int) -> int:
    """Return the highest number up to `most` that holds, given that all lower ones do; 0 where not even 1 holds."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda number: not holds(number))


def busiest_second(bins: Sequence[int]) -> int:
    """Return the most content events in any second, from their counts in consecutive bins of BIN_S seconds."""
    width = round(1 / BIN_S)
    total = most = sum(bins[:width])
    for left, entered in zip(bins, bins[width:], strict=False):
        total += entered - left
        most = max(most, total)
    return int(most)


# An answer was held back on the way where its tokens come within a small share of the time over which the server wrote them.
# Where the server does not say that time, the wait for them stands for it; they are then more than one step makes, and closer
# together than any model writes them for one stream.
HELD_BACK_PIECES = 8  # tokens: of shorter answers it is not said that they were held back
HELD_BACK_SHARE = 0.05  # of the time over which the server wrote them
HELD_BACK_S = 0.1  # of shorter times nothing is said
CLIENT_LAG_SHARE = 0.5  # of that time: a client that lags as much may have let the pieces lie until all were there
MOST_IN_A_STEP, FASTEST_S = 16, 0.0002  # s a token: the fastest services write 3000 tokens/s to one stream
AT_ONCE_READS = 2  # a buffer that is full in mid-answer makes two of one
SEVERAL_TOKENS = 1.5  # a piece of text; fewer are words of which some take two tokens
BUFFERED_PIECES = 4  # in one read on average, from there on an answer is said to have been buffered on the way


def held_back(pieces: int, tokens: float, ttft_s: float, span_s: float, decode_s: float, lag_s: float) -> bool:
    """Whether an answer's pieces came together, over `span_s`, once all of them were made, be it in a read each.

    `tokens` is how many the server counts of their text, nan or 0 where it does not: a piece, such as a tool call, may hold
    many. `decode_s` is over how long the server says that it wrote them, nan where it says nothing. `lag_s` is the client's own
    lag: pieces that may have lain unread for as long as they took to write were not held back on the way.
    """
    # the last piece may be said to have come before the first, by more than instants are rounded
    if span_s < -S_PER_US or pieces < 2:
        return False
    made = max(pieces, tokens)
    if math.isnan(decode_s):
        least = FASTEST_S * (made - 1)
        together = span_s < min(HELD_BACK_SHARE * ttft_s, least)
        return made >= MOST_IN_A_STEP and ttft_s >= HELD_BACK_S and together and lag_s < least
    # what took longer to write than to come was written by another clock, or in another unit
    possible = HELD_BACK_S <= decode_s <= ttft_s + span_s and lag_s < CLIENT_LAG_SHARE * decode_s
    return possible and made >= HELD_BACK_PIECES and span_s < HELD_BACK_SHARE * decode_s


def made_before_s(pieces: int, tokens: float, span_s: float, decode_s: float) -> float:
    """Return how long the first token had been made when it came, in an answer whose first tokens came together.

    The server wrote the answer over `decode_s` (nan where it does not say), and it came over `span_s`, with so many `tokens` in
    its pieces (nan unknown). Where only a few tokens came together the result is 0.
    """
    early, made = decode_s - span_s, max(pieces, tokens)
    return early if made >= HELD_BACK_PIECES and early * made > BUFFERED_PIECES * decode_s else 0.0
