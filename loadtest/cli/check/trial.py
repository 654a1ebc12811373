"""What `loadtest check --try` prints: each request as it is answered, then what works and how the answer came."""

from __future__ import annotations

from urllib.parse import urlsplit

from loadtest import credentials
from loadtest.dialects import Dialect
from loadtest.dialects.answers.errors.refusals import key_header, refused_key, wanted_header
from loadtest.scenario import Scenario
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import check_num_ctx, target_of
from loadtest.targets.trials import TRIAL_TOKENS, Attempt, attempts, changes, command_for, what_came
from loadtest.text import shown
from loadtest.urls import has_own_root

FIRST_TOKEN_S = 600.0  # for a first token: the model may have to be loaded


def try_server(server: Server, model: ServedModel, asked: Scenario, scenario: Scenario) -> int:
    """Send requests until one is answered, and print each; return the exit code.

    `asked` is what the command says, `scenario` the same with the API that was found out.
    """
    check_num_ctx(scenario, server.api(scenario.api), model.context)
    dialect = target_of(server, model, scenario).dialect  # raises for an option that it lacks
    length = f" for {TRIAL_TOKENS} tokens" if dialect.streams else ""
    print(f"Trying requests{length}, one after another: they may load the model, and cost tokens.", flush=True)
    limits = {"first_token_timeout": min(scenario.first_token_timeout or FIRST_TOKEN_S, FIRST_TOKEN_S)}
    last: Attempt | None = None
    for number, last in enumerate(attempts(server, model, scenario.replace(**limits)), 1):
        how = changes(scenario, last.scenario)
        path = last.dialect.posted_to
        path = f"…{path.removeprefix('/v1')}" if has_own_root(server.url) else path
        where = f"POST {shown(path)} ({last.dialect.name})"
        print(f"{number:2}. {' '.join(filter(None, [where, how]))}: {_outcome(last)}", flush=True)
    assert last is not None, "the first request is always sent"
    if not last.works:
        print(f"works      nothing that was tried{_missing(last, server.url)}")
        return 1
    add = changes(asked, last.scenario)
    print(f"works      {f'only {add}' if add else 'as asked: nothing has to be added'}")
    print(f"command    {command_for(last.scenario, server.url)}")
    for name, sentence in what_came(last):
        print(f"{name:10} {sentence}")
    for note in [*(last.record.doubts or []), *(last.record.notes or [])]:
        print(f"! {note}")
    return 0


def _outcome(attempt: Attempt) -> str:
    record = attempt.record
    if attempt.works:
        return "answered"
    if record.outcome == "ok":
        return "answered without a token"
    status = f"HTTP {record.status}: " if record.status and f"HTTP {record.status}" not in (record.error or "") else ""
    return f"{status}{record.error or record.outcome}"


def _missing(attempt: Attempt, url: str) -> str:
    """Say what may be missing where no other request could do better."""
    if attempt.no_model:
        return ": name a model that the server has with --model"
    words = attempt.record.error or ""
    if wanted_header(attempt.record.status, words) is not None:
        return ": the header that it names is missing"  # the sentence says how to give it
    if attempt.of_the_key:
        of_key = _of_a_key(attempt.dialect, url)
        return f": {of_key}, or give a header of the gateway's with --header '{key_header(words) or 'Name'}: ${{VARIABLE}}'"
    if attempt.is_compressed:
        return ": a compressed answer hides when its tokens came; have the server, or the gateway before it, send this path plain"
    if attempt.is_page:
        return f": web pages are at {url}, not the API; its port, or a prefix such as /api, may be another"
    match attempt.record.status:
        case 402:
            return ": the server wants it to be paid for"
        case 404 if credentials.is_azure(url) and "api-version" not in url:
            return ": Azure wants its version in the URL, such as ?api-version=2024-10-21 at its end"
        case 413:
            return ": the server, or a gateway before it, takes no request of this size"
        case 429:
            return ": the server takes no more requests from us now; try again later"
        case 502 | 503 | 504:
            return ": the server, or the one behind a gateway, is not ready; try again once it is"
    if attempt.is_nowhere and (parts := urlsplit(url)).path:
        shorter = parts._replace(path=parts.path.rpartition("/")[0]).geturl()
        return f": the server has no such path below {url}; see whether its URL is {shorter}"
    return ""


def _of_a_key(dialect: Dialect, url: str) -> str:
    """Say what to do about the key where a request was refused for want of one, or with one."""
    if (name := credentials.key_variable(url, dialect.api, key_env=dialect.key_env)) is not None:
        return refused_key(name, None)  # which request would be answered is not known yet
    names = " or ".join(credentials.variables_for(url, dialect.api, key_env=dialect.key_env))
    return f"a key may be missing; set {names}"
