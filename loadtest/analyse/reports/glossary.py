"""The words of a report, each explained in a sentence."""

from __future__ import annotations

GLOSSARY = (
    (
        "stream",
        "A request that was sent and is not over; concurrency is how many there are at once, one for each user.",
    ),
    ("level", "A part of the run: so many streams, or requests a second, with one length of prompt and answer."),
    ("in, out", "Tokens of a prompt and of an answer, as asked for: 128 in · 64 out."),
    ("closed loop", "Each user sends the next request when its last answer has ended (--concurrency)."),
    (
        "open loop",
        "Requests are sent when they are due, however many are unanswered (--rate); TTFT from t_sched counts from then.",
    ),
    ("t_sched, t_send", "When a request was due, or its user was free to send it; and when its last byte was sent."),
    ("TTFT", "Time to first token: from sending the request until the first piece of text arrives."),
    ("ITL", "Inter-token latency: the gap between one piece of text and the next, every gap counted."),
    (
        "TPOT",
        "Time per output token: an answer's decode time divided by its tokens after the first, one figure a request.",
    ),
    ("E2E", "End to end: from sending the request until its last piece of text."),
    ("tokens/s a stream", "How fast one user's text appears (1 / TPOT)."),
    ("output tokens/s", "What the server makes for all streams together."),
    ("goodput", "The requests/s that meet every objective (--slo), each request held against them by itself."),
    ("prefill", "The server reads the prompt; it ends with the first token."),
    (
        "prefix cache",
        "What the server keeps of prompts that it has read: a prompt that begins alike is read from there on.",
    ),
    ("decode", "The server writes the answer, a token a step."),
    (
        "slots",
        "How many requests the server works on at once (Ollama: OLLAMA_NUM_PARALLEL; vLLM: max-num-seqs); others queue.",
    ),
    (
        "queue wait",
        "The time before the server works on a prompt, without its load: slot wait, batch wait, and the delay that even a request alone has.",
    ),
    ("slot wait", "The part of queue wait while all slots are taken: the queue for a slot."),
    (
        "batch wait",
        "A slot is free, but the batch in flight must end first. It needs another stream, not more streams than slots.",
    ),
    (
        "load",
        "What the server takes to have the model ready for a request: some ms where it is loaded, seconds where it is not.",
    ),
    ("step", "One batch of the server that only decodes: each stream that decodes gets one token."),
    ("stall", "What a stream's decode lost while the server read other requests' prompts."),
    (
        "p50, p95, p99",
        "Half of the values, 95 % and 99 % of them are no larger; p95 needs 20 values, p99 100. One between two values is interpolated.",
    ),
    (
        "95 % interval",
        "Where the true figure lies, given how few requests there were: two figures whose intervals overlap may be the same.",
    ),
    ("steady window", "The part of a level in which all streams are at work; rates are over it."),
    (
        "schedule lag, client lag",
        "How late loadtest itself sent a request, or read a token; a token read later than the next one came is spoilt.",
    ),
    ("stamps", "Who noted when an answer's bytes arrived: the kernel, or loadtest itself when it read them."),
    (
        "counted by",
        "Who counted the tokens: the server, tiktoken, or loadtest: by the length asked for where that ended an answer, else by pieces.",
    ),
    (
        "delivery delay",
        "How long a token took from the server's own stamp to its arrival, more than the fastest one of the run.",
    ),
    ("valid, suspect, void", "The client kept up; there is a reason for doubt; the figures must not be quoted."),
)
