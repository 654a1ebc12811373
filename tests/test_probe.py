"""What server is this: URLs as the ecosystem writes them, models chosen, hazards named."""

from __future__ import annotations

import pytest

from loadtest.errors import TargetError
from loadtest.target.probe import ServedModel, Server, choose_model, hazards
from loadtest.urls import base_url, default_url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8000", "http://gpu-box:8000"),
        ("0.0.0.0:11435", "http://127.0.0.1:11435"),
        (":11435", "http://127.0.0.1:11435"),
        ("http://host/v1", "http://host"),
        ("https://host/llm/v1/", "https://host/llm"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_a_url_as_people_write_it(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize("given", ["ftp://host", "http://host:99999", "http://host:port", "a b", ""])
def test_what_is_no_url_is_said(given: str) -> None:
    with pytest.raises(TargetError, match="is not a URL"):
        base_url(given)


def test_the_environment_names_the_server() -> None:
    assert default_url({}) == "http://127.0.0.1:11434"
    assert default_url({"OPENAI_BASE_URL": "http://a/v1"}) == "http://a/v1"
    assert default_url({"OPENAI_BASE_URL": "http://a/v1", "OLLAMA_HOST": "b"}) == "b"  # api openai: test_urls


def ollama(*models: ServedModel) -> Server:
    return Server("http://host", "ollama", "0.33.0", models)


def test_a_model_is_the_one_asked_for_else_the_loaded_else_the_only_one() -> None:
    cold, warm = ServedModel("a:latest", loaded=False), ServedModel("b:7b", loaded=True)
    assert choose_model(ollama(cold, warm), "a") is cold
    assert choose_model(ollama(cold, warm), None) is warm
    assert choose_model(ollama(cold), None) is cold


def test_models_that_cannot_be_chosen_are_named() -> None:
    two = ollama(ServedModel("a:latest", loaded=False), ServedModel("b:7b", loaded=False))
    with pytest.raises(TargetError, match="several models; choose one with --model: a:latest, b:7b"):
        choose_model(two, None)
    with pytest.raises(TargetError, match=r"no model 'c'; it has: a:latest, b:7b.*ollama pull c"):
        choose_model(two, "c")
    with pytest.raises(TargetError, match="no model yet"):
        choose_model(ollama(), None)


def test_hazards_name_a_model_in_host_memory() -> None:
    half = ServedModel("m", loaded=True, context=4096, size=100, size_vram=25)
    assert any("75 % of m is in host memory" in text for text in hazards(ollama(half), half))
