"""What scenario files and prompt files hold is read, or refused in one sentence that says what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario, keys_of
from loadtest.scenario.files import record_format


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"requests = 16.0\n", None),
        (b'requests = "16"\n', "must be a whole number or nothing, not '16'; leave out the quotes."),
        (b"Concurrency = 1\n", "unknown key 'Concurrency'; did you mean 'concurrency'?"),
        (b"a = 1\na = 2\n", "Cannot overwrite a value (at line 2, column 6); give it once."),
        (b"model = llama3\n", "write a text in quotes, and true or false in small letters."),
        (b'[data]\ndata = "C:\\Users\\x\\new.jsonl"\n', "write a path with / or in single quotes."),
        (b'name = "abc\n', "close the quotes or brackets that it opens."),
        (b"concurrency: 1\n", "; a scenario is written in TOML, like concurrency = [1, 2]."),
        (b"import http from 'k6/http';\n", "; a scenario is written in TOML, like concurrency = [1, 2]."),
        (b"duration = 2024-01-01\n", "duration must be a number or nothing, not 2024-01-01."),
        (b"vus = 5\n", "has vus, which is no key; write it as concurrency."),
        (b"frobnicate = 1\n", "has an unknown key 'frobnicate'; known keys: "),
        (b'slo = "ttft_p95=2"\n', "has slo, which is no key; give it on the command line, as --slo."),
        ("name = \u201ca\u201d\n".encode(), "it has a typographic quote (\u201c): write straight ones."),
        (b"[[request]]\n", "has request, which is a table; write it once, as [request], with its keys below."),
        (
            b"[data]\nfile = 1\n",
            "has an unknown key 'file'",
        ),
        (b"[trace]\nfile = 1\n", "trace must be text or nothing, not a table."),
        (b"first_byte_timeout = 7\n", None),
        (b"duration = 7.0\n[request]\nthink = true\n", None),
        (b"first_byte_timeout = 7\nfirst_token_timeout = 7\n", "its former name; give first_token_timeout alone."),
        (b"\xef\xbb\xbf# a mark and other line ends\r\nduration = 7.0\r\n", None),
        (b'model = "a\xff"\n', "is not UTF-8 text (line 1); save it as UTF-8."),
    ],
)
def test_a_scenario_file_is_read_or_refused_in_one_sentence(tmp_path: Path, body: bytes, words: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(body)
    if words is None:
        scenario = Scenario.load(path)
        assert 7.0 in (scenario.first_token_timeout, scenario.duration) or scenario.requests == 16
        return
    with pytest.raises(ScenarioError) as error:
        Scenario.load(path)
    assert words in str(error.value)


def test_a_home_in_a_files_path_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "mine.toml").write_text('[data]\ndata = "~/rows.jsonl"\nsystem = "@~/system.txt"\n')
    scenario = Scenario.load(tmp_path / "mine.toml")
    assert (scenario.data, scenario.system) == ("/home/somebody/rows.jsonl", "@/home/somebody/system.txt")


@pytest.mark.parametrize("name", ["data", "trace", "prompt_file", "ca_file", "system", "input_tokens", "body"])
def test_a_home_is_the_users_in_python_and_behind_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text('{"top_k": 5}')
    form = {"system": "@{}", "body": "@{}", "input_tokens": "empirical({})"}.get(name, "{}")
    named, whole = (Scenario.from_dict({name: form.format(path)}) for path in ("~/x", tmp_path / "x"))
    assert getattr(named, name) == getattr(whole, name)


def test_an_option_wins_over_the_files_old_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("first_byte_timeout = 7\n")
    said: list[str] = []
    assert Scenario.load(path, say=said.append, first_token_timeout=9.0).first_token_timeout == 9.0
    assert Scenario.load(path, first_byte_timeout=8.0).first_token_timeout == 8.0
    assert len(said) == 1
    former = {**Scenario().to_dict(), "first_byte_timeout": 5.0}
    del former["first_token_timeout"]
    assert Scenario.from_dict(former).first_token_timeout == 5.0  # run.json of an older run


@pytest.mark.parametrize(
    ("text", "suffix", "kind"),
    [
        ('{"prompt": "a"}\n{"prompt": "b"}\n', ".txt", "JSON lines"),
        ('{"prompt": "a"}', ".txt", "JSON lines"),
        ('{\n "messages": []\n}', ".json", "a JSON record"),
        ('["a", "b"]', ".json", "a JSON array of 2 records"),
        ('[{"conversations": []}, {"conversations": []}]', "", "a JSON array of 2 conversations (ShareGPT)"),
        ("id,prompt\n1,a\n2,b\n", ".txt", "CSV"),
        ("anything", ".jsonl", "JSON lines"),
        ("anything", ".tsv", "CSV with tabs"),
        ('Say what this means: {"prompt": "a"}', ".txt", None),
        ('{"name": "Ada", "born": 1815}', ".json", None),
        ("text, said he,\nwas long, and dull\n", ".txt", None),
        ("[1] A quotation.\n[2] Another.\n", ".txt", None),
        ("", "", None),
    ],
)
def test_what_a_prompt_file_looks_like(text: str, suffix: str, kind: str | None) -> None:
    assert record_format(text, suffix) == kind


def test_a_prompt_files_mark_and_line_ends_are_no_part_of_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfTell me\r\na story.\r\n")
    assert Scenario(prompt_file=str(path)).prompt_text() == "Tell me\na story.\n"
    path.write_bytes(b"Another, longer one.")
    assert Scenario(prompt_file=str(path)).prompt_text() == "Another, longer one."


def test_every_key_may_be_laid_over_a_file(tmp_path: Path) -> None:
    """`loadtest run mine.toml --path /x` was a traceback: path is the file's name, too."""
    (tmp_path / "mine.toml").write_text("concurrency = [1]\n")
    assert Scenario.load(tmp_path / "mine.toml", path="/x").path == "/x"
    for key in keys_of(Scenario):
        with pytest.raises(ScenarioError):
            Scenario.load(tmp_path / "mine.toml", **dict[str, Any]({key.name: object()}))
