"""Counting tokens: tiktoken's vocabulary from its cache, a fetch with a limit, an estimate; and the server's own count."""

from __future__ import annotations

import gc
import pickle
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import ranks as cached

from loadtest.workloads import tokens
from loadtest.workloads.tokens import CL100K, O200K, Counter, TokenFit, estimate_tokens, fetched, load_counter

PROSE = (
    "The kernel stamps each segment as it arrives, so a busy client cannot mistake its own lag for the server's. "
    "Two drivers share one measuring core; a run is written to disk as it happens, and everything that people read "
    "afterwards is made from the run folder, any number of times, on any machine.\n\n"
) * 3


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of tiktoken's, and nothing loaded from another one."""
    monkeypatch.setattr(tokens, "_loaded", weakref.WeakValueDictionary())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def serving(body: bytes, status: int = 200, *, silent: bool = False) -> Iterator[str]:
    """Serve one body on loopback; `silent` sends half of it and then waits."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if silent else body)
            if silent:
                over.wait(30)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/ranks"
        finally:
            over.set()
            server.shutdown()
            thread.join()


# ---------------------------------------------------------------- tiktoken


def test_real_ranks_count_as_tiktoken_does(ranks: Path) -> None:
    counter = load_counter("llama3.1:70b", fetch=False)
    assert counter.exact
    assert counter.source == "tiktoken cl100k_base"
    assert counter.count("hello world") == 2
    assert counter.count("") == 0
    assert counter.count("<|endoftext|>") > 1
    assert load_counter("openai/gpt-oss-120b", fetch=False).source == "tiktoken o200k_base"
    assert sorted(file.name for file in ranks.iterdir()) == sorted([cached.CL100K, cached.O200K])


def test_ranks_are_loaded_once_and_gone_with_who_counts(ranks: Path) -> None:
    one, other = load_counter(), load_counter()
    assert one.encoder is not None
    assert one.encoder is other.encoder
    gone = weakref.ref(one.encoder)
    del one, other
    gc.collect()
    assert gone() is None


def test_a_counter_goes_to_worker_processes(ranks: Path) -> None:
    for counter in (load_counter(fetch=False), Counter("estimate")):
        again = pickle.loads(pickle.dumps(counter))
        assert (again.source, again.count(PROSE)) == (counter.source, counter.count(PROSE))


def test_the_estimate_is_near_for_prose(ranks: Path) -> None:
    exact = load_counter(fetch=False).count(PROSE)
    assert abs(estimate_tokens(PROSE) - exact) <= exact / 10
    assert estimate_tokens("") == 0
    assert 3 <= estimate_tokens("你好世界你好") <= 12


def test_the_other_vocabulary_is_better_than_none(ranks: Path, cache: Path) -> None:
    cache.mkdir()
    shutil.copy(ranks / cached.O200K, cache)
    assert load_counter("llama3", fetch=False).source == "tiktoken o200k_base"


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("llama3.1:70b", CL100K),
        ("", CL100K),
        ("qwen3:8b", CL100K),
        ("gpt-4-turbo", CL100K),
        ("gpt-4o-mini", O200K),
        ("gpt-4.1", O200K),
        ("gpt-5", O200K),
        ("openai/gpt-oss-20b", O200K),
        ("o3-mini", O200K),
        ("olmo2", CL100K),
    ],
)
def test_the_vocabulary_nearest_to_a_model(model: str, vocabulary: str) -> None:
    assert tokens.vocabulary_like(model) == vocabulary


def test_without_a_vocabulary_and_without_a_fetch_it_estimates_and_says_why(cache: Path) -> None:
    counter = load_counter("llama3", fetch=False)
    assert not counter.exact
    assert counter.source == "estimate: tiktoken's ranks are not in its cache"
    assert counter.count("a b c") == 3
    assert not cache.exists()


def test_where_no_folder_takes_temporary_files_lengths_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    assert "No usable temporary directory" in load_counter().source


def test_a_damaged_file_is_not_used(cache: Path) -> None:
    cache.mkdir()
    (cache / cached.CL100K).write_bytes(b"damaged")
    assert not load_counter(fetch=False).exact


# ---------------------------------------------------------------- the fetch


def test_a_fetch_fills_the_cache_by_our_own_way_alone(
    ranks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiktoken import load

    usual = load.read_file
    monkeypatch.setattr(tokens, "fetched", lambda _: (ranks / cached.CL100K).read_bytes())
    assert load_counter("m").source == "tiktoken cl100k_base"
    assert [file.name for file in cache.iterdir()] == [cached.CL100K]
    assert load.read_file is usual


def test_a_cache_that_keeps_nothing_leaves_an_estimate(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust's workers never fetch: they would count otherwise than the process that learned the server's count."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.setattr(tokens, "fetched", lambda _: (ranks / cached.CL100K).read_bytes())
    assert load_counter("m").source == "estimate: tiktoken's cache keeps no ranks"


def test_what_is_not_the_vocabulary_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "fetched", lambda _: b"a login page")
    assert load_counter("m").source == "estimate: tiktoken's ranks do not match their checksum"
    assert not cache.exists()


def test_what_a_server_sends_is_fetched_within_a_time() -> None:
    body = b"ranks" * 1000
    with serving(body) as url:
        assert fetched(url) == body
    with serving(b"gone", 404) as url, pytest.raises(OSError, match="HTTP 404"):
        fetched(url)
    with serving(body, silent=True) as url, pytest.raises(OSError, match=r"0\.1 s"):
        fetched(url, 0.1)


def test_a_failed_fetch_is_an_estimate_that_says_why(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> bytes:
        raise OSError("HTTP 404")

    monkeypatch.setattr(tokens, "fetched", gone)
    assert load_counter("m").source == "estimate: tiktoken's ranks could not be fetched (HTTP 404)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("all_proxy", "socks://127.0.0.1:9"),
        ("all_proxy", "socks5://127.0.0.1:9"),
        ("all_proxy", "http://[::1"),
        ("SSL_CERT_FILE", "/nowhere"),
    ],
)
def test_an_environment_that_httpx_cannot_use_is_a_failed_fetch(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(OSError):
        fetched("http://127.0.0.1:9")


def test_a_cache_that_cannot_be_written(ranks: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("")
    monkeypatch.setattr(tokens, "fetched", lambda _: (ranks / cached.CL100K).read_bytes())
    assert "could not be fetched" in load_counter("m").source


# ---------------------------------------------------------------- calibration


def test_two_lengths_tell_overhead_from_ratio() -> None:
    calibration = TokenFit.fit([(32, 11 + 32), (256, 11 + 256)])
    assert calibration == TokenFit(overhead=11, ratio=1)
    assert calibration.ours(128) == 117
    assert calibration.server(117) == 128
    calibration = TokenFit.fit([(256, 330), (32, 50)])  # 10 + 1.25 × ours
    assert (calibration.overhead, calibration.ratio) == (10, 1.25)
    for target in (20, 100, 4096):
        assert abs(calibration.server(calibration.ours(target)) - target) <= 1


def test_a_vocabulary_of_little_more_than_letters_is_believed() -> None:
    assert TokenFit.fit([(32, 170), (256, 1290)]) == TokenFit(overhead=10, ratio=5)


def test_a_target_below_the_template_is_the_shortest_text() -> None:
    assert TokenFit(overhead=30).ours(10) == 1


def test_a_prompt_that_the_context_cut_is_no_point() -> None:
    short, cut = [(32, 106), (32, 107)], [(512, 1548), (2008, 2048), (2008, 2047)]  # 10 + 3 × ours, a context of 2048
    assert TokenFit.fit([*short, *cut], 2048).ratio == pytest.approx(3, abs=0.01)
    assert tokens.uncut([*short, *cut], 2048) == [*short, (512, 1548)]
    assert tokens.uncut([*short, *cut]) == [
        *short,
        (512, 1548),
    ]  # a context that is not known: by the line of the others
    assert tokens.uncut([(32, 106), (256, 778)], 779) == [(32, 106)]  # a token below the context
    assert tokens.uncut([(32, 106), (256, 778), (512, 1546)]) == [(32, 106), (256, 778), (512, 1546)]


def test_one_length_gives_overhead_alone() -> None:
    assert TokenFit.fit([(32, 40)]) == TokenFit(overhead=8)
    assert TokenFit.fit([(32, 40), (32, 40)]) == TokenFit(overhead=8)
    assert TokenFit.fit([(32, 16)]) == TokenFit(ratio=0.5)


@pytest.mark.parametrize("points", [[], [(32, 40), (256, 40)], [(32, 40), (256, 1)], [(32, 0)], [(1, 1), (2, 50)]])
def test_what_makes_no_line_changes_nothing(points: list[tuple[int, int]]) -> None:
    assert TokenFit.fit(points) == TokenFit()
