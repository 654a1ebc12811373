"""What to do about each reason for doubt: one table, which reports print and docs/void.md repeats."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is wrong where a rule doubts a level, in a few words, and what to do before measuring again."""

    wrong: str
    advice: str


LESS_LOAD = (
    "End other programs on the machine that runs loadtest, or run it on another machine than the server. Where the load itself is "
    "too much for one process, use more --workers or fewer streams."
)

# By the cause under which verdict.RULES names the rule.
REMEDIES: dict[str, Remedy] = {
    "nothing_succeeded": Remedy(
        "No request succeeded.",
        "Do what the error says; `loadtest check --try` asks the same server for one answer. Where that one is well and several were "
        "sent at once, they may have been too many (streams may share one context): send fewer.",
    ),
    "none_ended": Remedy(
        "No request ended before the level did.",
        "Where the run was interrupted, run it again; where requests were stopped when the level ended, let it last longer.",
    ),
    "only_warmups": Remedy(
        "Only warm-up requests were sent.",
        "Let the level last beyond its warm-up: more requests than --warmup sends first, or a longer --duration. Under Locust "
        "start users faster (-r as large as -u), or run longer (-t).",
    ),
    "client_error": Remedy(
        "loadtest itself failed.",
        "This is a mistake in loadtest: please report it, with the reason and run.json.",
    ),
    "server_gone": Remedy(
        "The server could not be reached, or answers broke off.",
        "Where the error names a limit of this machine, raise it; where it names a certificate or the host's name, mend that. Where "
        "answers repeat themselves, give other prompts or a higher --temperature. Otherwise look in the server's log whether it ended or ran out of memory, and in a gateway's whether that "
        "closed connections; then run it again, with fewer streams where memory ran out.",
    ),
    "turned_away": Remedy(
        "Requests were turned away.",
        "Send less load: fewer streams, a lower --rate, or --max-rate below the server's limit. Where a 503 comes at little load, too, "
        "see a gateway's log: it may not have reached its server, or have used a connection that the server had closed. If some are "
        "normal for this server, allow them with --max-error-ratio.",
    ),
    "too_slow": Remedy(
        "Requests took longer than a time limit.",
        "Raise the limit that the error names (--first-token-timeout, --idle-timeout, --total-timeout, or the gateway's own for a "
        "504 or 524), or send fewer streams.",
    ),
    "too_many_failed": Remedy(
        "Too many requests failed.",
        "Do what the error says; `loadtest check --try` asks the same server for one answer. Where a gateway says 502, its log tells "
        "why it got no answer: it may have used a connection that the server had closed. If some failures are normal for this server, "
        "allow them with --max-error-ratio.",
    ),
    "most_left": Remedy(
        "In half of the requests or more users hung up before their first token.",
        "Send less load, or give users more --patience: the figures are of the few who waited.",
    ),
    "run_failed": Remedy(
        "The run broke off in this level.",
        "Remove the cause that the reason names, such as a full disk, and run it again.",
    ),
    "stopped": Remedy(
        "The level was stopped after many errors.",
        "Do what the error says, then run it again; --stop-after-errors sets how many may fail in a row.",
    ),
    "worker_died": Remedy(
        "A worker process of the client died.",
        "Look for the cause in the system's log (often memory ran out), then run it again, with fewer --workers or streams.",
    ),
    "worker_lost": Remedy(
        "A Locust worker was lost.",
        "Look at that worker's log and its machine, then run the test again.",
    ),
    "users_gone": Remedy(
        "Users ended before the level did.",
        "Find out why in Locust's log: on_start or wait_time raised an exception, or a task raised StopUser.",
    ),
    "more_than_users": Remedy(
        "Users sent several requests at once.",
        "Give each request at a time a user of its own (-u): levels are named by their users, and a task that sends in greenlets of its own "
        "has more streams than that.",
    ),
    "several_models": Remedy(
        "Several models answered.",
        "Have the gateway send every request to one model (no routing, no fallback), or measure each model by its own name.",
    ),
    "undistinguished": Remedy(
        "Which server answered is not known.",
        "Measure each server by its own URL.",
    ),
    "without_text": Remedy(
        "Answers had no text.",
        "Look at an answer with --save-text. If the server sends its text in another format, choose it with --api and "
        "--endpoint; if the model ends at once, change the prompt or ask for --ignore-eos.",
    ),
    "connection_wait": Remedy(
        "Requests waited for a connection.",
        "Raise the server's or gateway's limit of connections (HAProxy maxconn) to at least the number of streams, or let it close idle "
        "ones soon.",
    ),
    "stuck": Remedy(
        "Users were stuck.",
        "Find what held them back: a gateway that takes fewer connections than there are streams, or a queue that passes over who came "
        "first.",
    ),
    "from_cache": Remedy(
        "A cache answered.",
        "Measure the server without the cache in between, or switch it off for these requests.",
    ),
    "doubted": Remedy(
        "Answers were odd.",
        "Look at an answer with --save-text, and measure the server without the gateway or proxy in between.",
    ),
    "slow_send": Remedy(
        "Requests took long to send.",
        "Send shorter prompts or measure over a faster network; where prompts are short and the server is near, end other programs "
        "on both machines.",
    ),
    "late_sends": Remedy("Requests left late.", LESS_LOAD),
    "client_lag": Remedy("The client read tokens late.", LESS_LOAD),
    "stood_still": Remedy(
        "The client stood still.",
        "Keep the machine awake: no suspend, no paused virtual machine, no Ctrl-Z; and see that it does not swap.",
    ),
    "unstamped": Remedy(
        "The kernel did not stamp arrivals.",
        "Run on Linux without LOADTEST_STAMPS=user, and reach the server directly over http where you can; else use fewer streams.",
    ),
    "clock_gap": Remedy(
        "A clock jumped.",
        "Let the machine's clock settle (suspend, a resumed virtual machine and a first time synchronisation move it), then "
        "run it again.",
    ),
    "reload": Remedy(
        "The model was loaded during the measurement.",
        "Keep it loaded: raise OLLAMA_KEEP_ALIVE, let no one else use other models or another num_ctx, and leave --warmup on. Where "
        "requests failed just before, its process may have ended: see the server's log.",
    ),
    "coalesced": Remedy(
        "First tokens came together with later ones.",
        "Where a gateway or proxy stands between, switch its buffering off or measure without it. Where none does, the server or the "
        "client was too busy to handle tokens one by one: end other programs there.",
    ),
    "bundled": Remedy(
        "Tokens behind the first came together.",
        "Have the gateway hand each piece on as it comes, or measure without it: TTFT may be right, the rest of an answer was held back.",
    ),
    "client_busy": Remedy("The client's processor was busy.", LESS_LOAD),
    "beyond_capacity": Remedy("More arrived than this client measures truthfully.", LESS_LOAD),
    "growing": Remedy(
        "Requests were still piling up.",
        "The server may not keep up at this rate, and then its waits depend on how long you measure. Send fewer a second.",
    ),
    "records_lost": Remedy(
        "Records are missing.",
        "Free some disk space and run it again; a folder that was copied should be copied again.",
    ),
    "not_sent": Remedy(
        "Requests were held back.",
        "Raise --max-in-flight, or use a lower --rate.",
    ),
    "unasked_lengths": Remedy(
        "Lengths are not as asked.",
        "Where answers end early, add --ignore-eos if the server knows it, or ask for fewer --output-tokens. Where answers are too "
        "long, the server may take no length by that name (--max-tokens-key has another), or it counts no tokens, and its pieces are "
        "no whole tokens. Where prompts have another length, quote the one that the table shows.",
    ),
    "cut_prompt": Remedy(
        "Prompts fill the context.",
        "Some servers cut a prompt to the context without a word. Give the model a larger one (--num-ctx, or OLLAMA_CONTEXT_LENGTH "
        "at the server), or send shorter prompts.",
    ),
    "past_context": Remedy(
        "Answers pass the context.",
        "Some servers drop what was said first, to write on, without a word. Give the model a larger context (--num-ctx, or "
        "OLLAMA_CONTEXT_LENGTH at the server), or ask for shorter answers.",
    ),
    "cached": Remedy(
        "The prefix cache answered.",
        "Switch the server's prefix cache off, or say with --warm-cache that this is what you measure.",
    ),
}
