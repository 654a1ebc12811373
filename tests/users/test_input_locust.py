"""What Locust users write wrongly, in options, in the environment or in a class, is one sentence that names it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from support.places import ROOT

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.users import ModelUser, OpenLoopUser, answer
    from loadtest.users.options import PROCESS_OPTIONS, TEST_OPTIONS, Settings, metrics_of


def asked(attributes: dict[str, Any], base: type[ModelUser] = ModelUser, **options: Any) -> Scenario:
    """Return the scenario of a user class with these attributes, under these options."""
    user_class: Any = type("Mine", (base,), {"abstract": True, "host": "http://127.0.0.1:9", **attributes})
    made: Scenario = user_class.scenario(Settings.of(argparse.Namespace(**options)), host=None, name="x", seed=1)
    return made


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"host": 5}, "host must be text, not 5."),
        ({"model": 3}, "model must be text or nothing, not 3."),
        ({"model": ""}, "model is empty; give the model's name"),
        ({"api": None}, "api must be text, not None."),
        ({"api": "grpc"}, "api must be one of auto, ollama, openai, anthropic, not 'grpc'."),
        ({"input_tokens": "128"}, "input_tokens must be a whole number, not '128'; leave out the quotes."),
        ({"input_tokens": 0}, "input_tokens must be 1 or more, not 0."),
        ({"output_tokens": 10**30}, "output_tokens must be at most 10000000"),
        ({"output_tokens": True}, "output_tokens must be a whole number or text, not True."),
        ({"prompt": b"bytes"}, "prompt must be text or nothing, not b'bytes'."),
        ({"prompt": "a\udcff"}, "prompt holds bytes that are not UTF-8 text"),
        ({"warmup": -1}, "warmup must be 0 or more, not -1."),
        ({"warmup": "1"}, "warmup must be a whole number, not '1'; leave out the quotes."),
        ({"warm_cache": "yes"}, "warm_cache must be true or false, not 'yes'."),
        ({"num_ctx": 0}, "num_ctx must be above 0, not 0."),
        ({"temperature": float("nan")}, "temperature must be a number, not nan."),
        ({"max_tokens_key": "max"}, "max_tokens_key must be one of max_tokens, max_completion_tokens, not 'max'."),
        ({"first_token_timeout": float("inf")}, "first_token_timeout must be at most 2592000, not inf"),
        ({"first_token_timeout": 5, "first_byte_timeout": 6}, "give first_token_timeout alone."),
        ({"first_byte_timeout": "x"}, "first_token_timeout must be a number, not 'x'."),
        ({"idle_timeout": None}, "idle_timeout must be a number, not None."),
        ({"total_timeout": -1}, "total_timeout must be above 0, not -1.0."),
        ({"stop_after_errors": 0}, "stop_after_errors must be 1 or more, not 0."),
        ({"stop_after_errors": 2.5}, "stop_after_errors must be a whole number or nothing, not 2.5."),
        ({"ca_file": 1}, "ca_file must be text or nothing, not 1."),
        ({"save_text": None}, "save_text must be true or false, not None."),
    ],
)
def test_an_attribute_that_makes_no_sense_is_a_sentence_that_names_its_class(
    attributes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ScenarioError) as error:
        asked(attributes)
    assert str(error.value).startswith("user class Mine")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"rate": "x"}, "rate must be a number of requests/s, not 'x'."),
        ({"rate": ""}, "rate must be a number of requests/s, not ''."),
        ({"rate": None}, "rate must be a number of requests/s, not None."),
        ({"rate": [4]}, "rate must be a number of requests/s, not [4]."),
        ({"rate": True}, "rate must be a number of requests/s, not True."),
        ({"rate": "0"}, "rate must be above 0, not 0.0."),
        ({"rate": "nan"}, "rate must be a number, not nan."),
        ({"rate": "inf"}, "rate must be at most 1000000, not inf."),
        ({"rate": "1e-300"}, "rate must be at least 1e-06, not 1e-300."),
        ({"rate": 10**400}, "rate must be a number of requests/s"),
        ({"arrivals": "gamma", "burstiness": "x"}, "burstiness must be a number, not 'x'."),
        ({"arrivals": "gamma", "burstiness": float("nan")}, "burstiness must be a number, not nan."),
        ({"arrivals": None}, "arrivals must be constant, poisson or gamma, not None."),
    ],
)
def test_a_rate_that_makes_no_sense_is_a_sentence_too(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        asked(attributes, OpenLoopUser)
    assert str(error.value).startswith("user class Mine: ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        (
            "output_tokens",
            "many",
            "--output-tokens must be a whole number above 0 or a distribution like lognormal(800, 0.6), not 'many'.",
        ),
        (
            "output_tokens",
            "nan",
            "--output-tokens must be a whole number above 0 or a distribution like lognormal(800, 0.6), not 'nan'.",
        ),
        ("output_tokens", "9" * 5000, "(5002 characters)."),
        (
            "input_tokens",
            "0",
            "--input-tokens must be a whole number above 0 or a distribution like lognormal(800, 0.6), not '0'.",
        ),
        ("input_tokens", "1" + "0" * 30, "input_tokens must be at most 10000000"),
        ("max_failure_ratio", "nan", "--max-failure-ratio must be a number from 0 to 1, not 'nan'."),
        ("max_ttft_p95", "inf", "--max-ttft-p95 must be a number above 0, not 'inf'."),
        ("stop_after_errors", "0", "--stop-after-errors must be a whole number above 0, not '0'."),
        ("model", "a\udcff", "--model must be a name in UTF-8 without control characters"),
        ("model", "a\x1b[2J", "--model must be a name in UTF-8 without control characters"),
        ("out", "a\udcff", "--out must be a path in UTF-8 without control characters"),
        ("api", "grpc", "--api must be one of auto, ollama, openai, anthropic, not 'grpc'."),
    ],
)
def test_an_option_that_makes_no_sense_is_a_sentence(key: str, text: str, words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        asked({}, ModelUser, **{key: text})
    assert words in str(error.value)


@pytest.mark.parametrize("texts", ["prompt", "data"])
def test_lengths_beside_texts_of_the_class_are_refused_as_loadtest_run_refuses_them(texts: str) -> None:
    with pytest.raises(ScenarioError) as said:
        asked({texts: "x"}, input_tokens="128")
    assert str(said.value) == (
        f"the command line, laid over user class Mine, has input_tokens beside {texts}: they are lengths of made-up "
        f"prompts, and a text has its own; leave out input_tokens or {texts}."
    )
    # An answer has a length whatever the prompt is, and sessions of such a class are made up.
    assert asked({"prompt": "x", "input_tokens": 64}, output_tokens="5").output_tokens == (5,)


def test_an_option_takes_the_place_of_what_excludes_it_in_the_class() -> None:
    assert asked({"system_tokens": 500}, system="Be kind.").system_tokens is None


def test_the_docs_name_what_the_help_of_locust_lacks() -> None:
    page = (ROOT / "docs/locust.md").read_text()
    named = {(option.flag, option.metavar) for option in (*TEST_OPTIONS, *PROCESS_OPTIONS)}
    assert not [one.flag for one in TEST_OPTIONS if "%" in one.help]  # the form shows it twice, as argparse wants it
    assert set(re.findall(r"^\| `(--\S+) (\S+)` \|", page, re.MULTILINE)) == named


def test_a_metrics_port_that_is_none_is_a_sentence() -> None:
    for port in ("65536", "-1", "nan", "x"):
        with pytest.raises(ScenarioError, match="--metrics-port must be a port from 0 to 65535"):
            metrics_of(argparse.Namespace(metrics_port=port))


def test_a_metrics_address_without_a_port_is_a_sentence() -> None:
    with pytest.raises(ScenarioError, match="--metrics-address does nothing without --metrics-port; leave it out"):
        metrics_of(argparse.Namespace(metrics_address="127.0.0.1"))
    assert metrics_of(argparse.Namespace(metrics_port="9464")) == (9464, "127.0.0.1")


def test_another_tools_name_for_a_key_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A class with max_tokens asked for answers of the usual length, without a word."""
    answer.say_once.cache_clear()
    asked({"max_tokens": 6, "timeout": 3, "output_tokens": 5}, type("Base", (ModelUser,), {"num_predict": 4}))
    said = [record.message for record in caplog.records]
    assert said == [
        f"user class Mine has {name}, which is no key of its requests; what other tools call so is output_tokens."
        for name in ("max_tokens", "num_predict")
    ]


def test_what_is_odd_but_right_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    assert asked({"output_tokens": 16.0}, input_tokens="1e2").input_tokens == (100,)
    assert asked({"stop_after_errors": 3}, stop_after_errors="5").stop_after_errors == 5
    assert asked({"rate": "4"}, OpenLoopUser).concurrency == (1,)
    answer.say_once.cache_clear()
    for _ in range(2):
        assert asked({"first_byte_timeout": 7}).first_token_timeout == 7.0
    assert caplog.text.count("has first_byte_timeout, which is called first_token_timeout now") == 1


def test_a_key_that_the_schema_opens_to_users_is_their_attribute_and_option_without_another_line() -> None:
    program = """
import argparse
import dataclasses
import loadtest.scenario as schema
from loadtest.scenario.keys import key

@dataclasses.dataclass(frozen=True, kw_only=True)
class Extended(schema.Scenario):
    both = (schema.ATTRIBUTE, schema.OPTION)
    top_p: float | None = key("Share.", None, table="request", locust=both)
    think: str = key("Thinking.", "auto", choices=("auto", "on", "off"), table="request", locust=both)
    ignore_eos: bool = key("On and on.", default=False, table="request", locust=both)

schema.Scenario = Extended
from loadtest.users import OllamaUser
from loadtest.users.options import OPTIONS, Settings

class Mine(OllamaUser):
    abstract = True
    host = "http://127.0.0.1:9"
    top_p = 0.5
    think = "on"

def asked(**options):
    made = Mine.scenario(Settings.of(argparse.Namespace(**options)), host=None, name="x", seed=1)
    return made.top_p, made.think, made.ignore_eos

assert (OllamaUser.top_p, OllamaUser.think, OllamaUser.ignore_eos) == (None, "auto", False)
assert {"--top-p", "--think", "--ignore-eos"} <= {option.flag for option in OPTIONS}
assert asked() == (0.5, "on", False), asked()
assert asked(top_p="0.2", think="auto", ignore_eos="true") == (0.2, "on", True)
assert asked(think="off") == (0.5, "off", False)
"""
    environment = {**os.environ, "LOCUST_SKIP_MONKEY_PATCH": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
