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
        "Requests are sent when they are due, however many are unanswered (--rate, --trace).",
    ),
    ("t_sched, t_send", "When a request was due (or its user free to send it), and when its last byte was sent."),
    ("TTFT", "Time to first token: from sending the request until the first piece of text arrives."),
    ("ITL", "Inter-token latency: the gap between one piece of text and the next, every gap counted."),
    (
        "TPOT",
        "Time per output token: an answer's decode time divided by its tokens after the first, one figure a request.",
    ),
    ("E2E", "End to end: from sending the request until its last piece of text."),
    ("tokens/s a stream", "How fast one user's text appears (1 / TPOT)."),
    ("output tokens/s", "What the server writes for all streams together."),
    ("goodput", "The requests/s of those requests that each meet every objective (--slo)."),
    ("prefill", "The server reads the prompt; it ends with the first token."),
    (
        "prefix cache",
        "What the server keeps of prompts that it has read: of a prompt that begins alike it reads only the rest.",
    ),
    ("decode", "The server writes the answer, a token a step."),
    (
        "slots",
        "How many requests the server handles in parallel (Ollama: OLLAMA_NUM_PARALLEL; vLLM: max-num-seqs); others queue.",
    ),
    (
        "queue wait",
        "The time before the server works on a prompt, model load left out: slot wait, batch wait, and the delay of even a lone request.",
    ),
    ("slot wait", "The part of queue wait while all slots are taken: the queue for a slot."),
    (
        "batch wait",
        "A slot is free, but the batch that the server computes must end first. One other stream is enough for that.",
    ),
    (
        "model load",
        "The time until the model is ready for a request: some ms where it is in memory, seconds where it is not.",
    ),
    ("step", "One batch of the server that only decodes: each stream that decodes gets one token."),
    ("stall", "What a stream's decode lost while the server read other requests' prompts."),
    (
        "p50, p95, p99",
        "So many percent of the values are no larger; p50 is the median. p95 needs 20 values, p99 100.",
    ),
    (
        "95 % interval",
        "Where the true figure lies in 95 of 100 cases: two figures whose intervals overlap may be the same.",
    ),
    ("steady window", "The part of a level in which all streams are at work; rates are over it."),
    (
        "schedule lag, client lag",
        "How late loadtest itself sent a request, and how late it read a token.",
    ),
    ("stamps", "Who noted when an answer's bytes arrived: the kernel, or loadtest itself when it read them."),
    (
        "counted by",
        "Who counted the tokens: the server, tiktoken, or loadtest, by the length asked for where that ended the answer, else by pieces.",
    ),
    (
        "delivery delay",
        "How much longer a token took from the server's own stamp to its arrival than the fastest one of the run.",
    ),
    ("valid, suspect, void", "Quote the figures; quote them with the reason for doubt; do not quote them."),
)
