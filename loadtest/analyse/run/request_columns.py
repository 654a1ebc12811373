"""The columns of `RunData.requests`, the table of a run's requests: what records hold, and what is worked out of it."""

from __future__ import annotations

from loadtest.analyse.run.files.reading import (
    COUNT_FIELDS,
    FLAG_FIELDS,
    INSTANT_FIELDS,
    NUMBER_FIELDS,
    REMARK_FIELDS,
    TEXT_FIELDS,
)

# Fields of loadtest.records.Record under their own names; 0 or nan for what a record leaves out. Remarks are tuples of sentences.
RECORDED = (*NUMBER_FIELDS, *COUNT_FIELDS, *TEXT_FIELDS, *FLAG_FIELDS, *REMARK_FIELDS)
# Its instants without their t_: `sched`, `send`, `end`, … in seconds since the run's first t_sched; nan where there was none.
INSTANTS = tuple(name.removeprefix("t_") for name in INSTANT_FIELDS)
# What the server said of a request, seconds; nan where it said nothing that can be believed.
SAID = {
    "load_s": "loading the model",
    "prefill_s": "reading the prompt",
    "decode_s": "writing the answer",
    "queued_s": "waiting, where the server says that apart",
    "queue_wait_s": "until the first token, less load and prefill; inferred of servers that say no durations",
    "cached_tokens": "prompt tokens that its prefix cache held",
    "llamacpp": "1 where these are llama.cpp's timings",
    "clock_factor": "by how much its durations are too long or too short: they are then taken for unknown",
}
WORKED_OUT = {
    "source": "which of the run's requests files it is from",
    "offset": "ns that are added to instants of that file",
    "send_s": "how long handing the request to the kernel took, s",
    "lag_s": "client lag, the worst of its reads, s",
    "resent_after_s": "from the first to the second send of a request that was sent twice, s; else nan",
    "reached": "instant of the last send: the server cannot have had the request before",
    "last": "instant of the last token",
    "schedule_lag_s": "from when it was due to when it was sent, less connecting, s",
    "ttft_s": "from the send to the first token, s",
    "ttft_sched_s": "from when it was due to the first token, s",
    "e2e_s": "from the send to the last token, s",
    "e2e_sched_s": "from when it was due to the last token, s",
    "tpot_s": "mean time between its tokens, s; nan where they came together",
    "stream_tokens_per_s": "1 / tpot_s",
    "e2e_tokens_per_s": "output tokens over e2e_s",
    "chunks": "pieces that its answer came in",
    "made_before_s": "s that tokens were made before they came, where the server held them back",
    "ok": "whether it ended well",
    "left": "whether its user hung up",
    "textless": "whether its answer is no text, as of embeddings",
    "together": "whether the server made its first two tokens at once, by its own stamps",
    "held_back": "whether most of its tokens were made long before they came",
    "whole": "whether its answer came in one piece, or nearly: when its tokens were made is not known",
    "concurrency": "of its level; nan of a rate",
    "rate": "of its level; nan of a number of users",
}
# What loadtest.analyse.summary adds, of one model at one server: where the time until the first token went, by the slots found.
INFERRED_COLUMNS = {
    "wait_source": "server, inferred or unknown: where what is said of its wait comes from",
    "slot_wait_s": "waiting for a slot, s",
    "batch_wait_s": "waiting for the batch in flight, s",
    "unsplit_wait_s": "waiting for either, s",
    "prefill_tokens_per_s": "prompt tokens read a second; nan where another request shared the server",
    "stall_s": "decoding that stood still while other prompts were read, s",
}
# What is added in a run of several models or servers: `accompanied` to the parts alone.
OF_SEVERAL = {
    "accompanied": "whether requests of another part were at its server meanwhile",
    "loaded_in_turn": "whether it waited for its model to be loaded in another's place",
}
