"""Good servers behind odd gateways, and refusals: paged lists, redirects by a slash, schemes of authorization, wrong ways in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.made_servers import OPENAI_STREAM, Answer, made, refuse

from loadtest.errors import TargetError
from loadtest.targets.server.probe import probe

Call = Callable[..., tuple[int, str, str]]
CHATS = "/v1/chat/completions"
LISTED = {"data": [{"id": "m"}]}


def rows(*names: str, **more: Any) -> dict[str, Any]:
    return {"data": [{"id": name} for name in names], **more}


PAGED: dict[str, tuple[Any, str, Any]] = {  # the first page, the second one's query, and that page
    "a link in a header": (
        (200, {"Link": '</v1/models?after=a>; rel="next", </v1/models>; rel="first"'}, b'[{"id": "a"}]'),
        "after=a",
        [{"id": "b"}],
    ),
    "a whole URL in the body (Django REST framework)": (
        {"count": 2, "next": "http://10.0.0.5:80/v1/models?page=2", "previous": None, "results": [{"id": "a"}]},
        "page=2",
        {"count": 2, "next": None, "results": [{"id": "b"}]},
    ),
    "links": (rows("a", links={"next": "?page[after]=a", "prev": None}), "page[after]=a", rows("b")),
    "numbered pages": (rows("a", page=1, total_pages=2), "page=2", rows("b", page=2, total_pages=2)),
    "pagination (GPUStack)": (
        {"items": [{"id": 1, "name": "a"}], "pagination": {"page": 1, "perPage": 1, "total": 2, "totalPage": 2}},
        "page=2",
        {"items": [{"id": 2, "name": "b"}], "pagination": {"page": 2, "perPage": 1, "total": 2, "totalPage": 2}},
    ),
}


@pytest.mark.parametrize("name", PAGED)
def test_a_list_in_pages_is_read_whole(name: str) -> None:
    first, query, second = PAGED[name]
    with made({"/v1/models": first, f"/v1/models?{query}": second}) as server, httpx.Client(trust_env=False) as client:
        assert [model.name for model in probe(client, server.url).models] == ["a", "b"]


def moved(to: str, status: int = 307) -> Answer:
    return refuse(status, None, Location=to)


def test_a_redirect_by_a_slash_is_taken_at_the_server_itself(loadtest: Call) -> None:
    """As FastAPI and Django send them; behind TLS they name http."""
    for to in ("/v1/models/", "https://127.0.0.1/v1/models/"):
        with made({"/v1/models": moved(to), "/v1/models/": LISTED}) as server:
            code, out, err = loadtest("check", server.url)
        assert code == 0, err
        assert "model      m" in out


def test_another_host_is_not_asked_for_a_redirect() -> None:
    with made({"/v1/models": moved("http://other.example/v1/models/"), "/v1/models/": LISTED}) as server:
        with httpx.Client(trust_env=False) as client, pytest.raises(TargetError):
            probe(client, server.url)
        assert "/v1/models/" not in [path for path, _ in server.seen]


def test_try_finds_the_path_with_a_slash(loadtest: Call) -> None:
    routes = {"/v1/models": LISTED, CHATS: moved(f"{CHATS}/", 308), f"{CHATS}/": OPENAI_STREAM}
    with made(routes) as server:
        code, out, _ = loadtest("check", "--try", server.url)
        assert code == 0
        assert f"works      only with --path {CHATS}/" in out
        _, _, err = loadtest("run", server.url, "--requests", "1", "--concurrency", "1")
    assert "give its path with --path, slash and all" in err


REFUSED: dict[str, tuple[Answer, dict[str, str], str]] = {  # the answer, what the environment holds, what to do
    "a header is named": (
        refuse(401, {"message": "Missing X-Auth-Token header"}),
        {},
        "it asks for a header: give it with --header 'X-Auth-Token: …'",
    ),
    "a key is not accepted": (
        refuse(401, {"error": "Incorrect API key"}),
        {"OPENAI_API_KEY": "sk-0123456789"},
        "the key in OPENAI_API_KEY is not accepted: set OPENAI_API_KEY to one that is",
    ),
    "a key may be good, but not for this": (
        refuse(403, {"error": "forbidden"}),
        {"OPENAI_API_KEY": "sk-0123456789"},
        "the key in OPENAI_API_KEY may be a wrong one, or not be good for this; set another",
    ),
    "no key is set": (refuse(401, {"error": "no"}, WWW_Authenticate='Bearer realm="x"'), {}, "set OPENAI_API_KEY ("),
    "another scheme": (
        refuse(401, {"detail": "no"}, WWW_Authenticate="Token"),
        {"OPENAI_API_KEY": "sk-0123456789"},
        "give --header 'Authorization: Token ${VARIABLE}'",
    ),
    "digest": (
        refuse(401, None, WWW_Authenticate='Digest realm="a, Basic", nonce="abc", algorithm=MD5'),
        {},
        "it asks for Digest, which loadtest does not speak",
    ),
    "basic beside bearer": (refuse(401, None, WWW_Authenticate='Basic realm="x", Bearer'), {}, "set OPENAI_API_KEY ("),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_how_to_be_let_in(name: str, loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, env, expected = REFUSED[name]
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    with made({}, default=answer) as server:
        code, _, err = loadtest("check", server.url)
    assert code == 2
    assert expected in err


def test_user_and_password_that_are_not_accepted(loadtest: Call) -> None:
    with made({}, default=refuse(401, None, WWW_Authenticate="Basic realm=x")) as server:
        code, _, err = loadtest("check", server.url.replace("//", "//user:wrong@"))
    assert code == 2
    assert "the user and password in the URL are not accepted: write others" in err


def test_try_stops_where_the_key_is_the_fault(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some gateways say so with status 200 or 400."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    for status in (200, 400):
        expired = refuse(status, {"error": {"message": "Your API key has expired", "code": 401}})
        with made({"/v1/models": LISTED, CHATS: expired}) as server:
            code, out, _ = loadtest("check", "--try", server.url)
        assert code == 1
        assert len(server.posted) == 1
        assert "the key in OPENAI_API_KEY may be a wrong one" in out


def test_try_names_the_missing_header_alone(loadtest: Call) -> None:
    wants = refuse(401, {"message": "Missing X-Auth-Token header"})
    with made({"/v1/models": LISTED, CHATS: wants}) as server:
        _, out, _ = loadtest("check", "--try", server.url)
    assert "give it with --header 'X-Auth-Token: …'" in out
    assert "OPENAI_API_KEY" not in out


def test_try_stops_where_answers_are_compressed(loadtest: Call) -> None:
    packed = (200, {"Content-Type": "text/event-stream", "Content-Encoding": "gzip"}, b"\x1f\x8b\x08")
    with made({"/v1/models": LISTED, CHATS: packed}) as server:
        code, out, _ = loadtest("check", "--try", server.url)
    assert code == 1
    assert len(server.posted) == 1
    assert "have the server, or the gateway before it, send this path plain" in out


def test_try_says_what_web_pages_everywhere_mean(loadtest: Call) -> None:
    page = (200, {"Content-Type": "text/html"}, b"<!doctype html><html><title>My App</title></html>")
    with made({}, default=page) as server:
        code, out, _ = loadtest("check", "--try", server.url, "--model", "m")
    assert code == 1
    assert f"web pages are at {server.url}, not the API" in out


def test_a_login_of_the_network(loadtest: Call) -> None:
    page = (511, {"Content-Type": "text/html"}, b"<html><title>Network Authentication Required</title></html>")
    with made({}, default=page) as server:
        _, _, err = loadtest("check", server.url)
    assert "The network wants you to log in first" in err


def test_a_list_behind_a_login_is_said_to_be_so_where_the_server_is_known(loadtest: Call) -> None:
    login = moved("https://sso.example.org/login?next=x", 302)
    ollama = {"/api/version": {"version": "0.24.0"}, "/": (200, {}, b"Ollama is running"), "/api/tags": login}
    for routes, api in ((ollama, "auto"), ({"/v1/models": login}, "openai")):
        with made(routes) as server:
            _, out, _ = loadtest("check", server.url, "--api", api)
        assert "status 302 to https://sso.example.org/login?…, where people log in" in " ".join(out.split())
