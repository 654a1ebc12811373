"""Monitors that read a page: exporters, Ollama, the simulated server and llama.cpp's own."""

from __future__ import annotations

import json
import socket
import threading

import psutil
import pytest
from support.exporter import Exporter, eventually, opened
from support.places import STREAMS

from loadtest import credentials
from loadtest.monitor import process, prometheus, scraped_page
from loadtest.monitor.host import Host, listening_pid
from loadtest.monitor.ollama import Ollama
from loadtest.monitor.prometheus import Prometheus
from loadtest.monitor.sampler import SourceError
from loadtest.monitor.scraped_page import ScrapedPage

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} 812.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e9
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 7
node_load1 NaN
temperature{room="a"} 21.5
"""


def test_known_metrics_are_taken_and_the_rest_left(exporter: Exporter) -> None:
    exporter.body = VLLM.encode()
    source = Prometheus("vllm", ScrapedPage(exporter.url))
    with opened(source) as facts:
        assert facts == {"url": exporter.url}
        labels = '{engine="0",model_name="m"}'
        assert source.sample() == {
            "values": {
                f"vllm:num_requests_running{labels}": 4.0,
                f"vllm:num_requests_waiting{labels}": 3.0,
                f"vllm:kv_cache_usage_perc{labels}": 0.25,
                f"vllm:generation_tokens_total{labels}": 812.0,
            }
        }


def test_named_metrics_are_taken_unknown_ones_said_and_nan_is_no_value(exporter: Exporter) -> None:
    exporter.body = VLLM.encode()
    source = Prometheus("prometheus", ScrapedPage(exporter.url), ("temperature", "node_load1", "nonsense"))
    with opened(source) as facts:
        assert facts["note"] == f"{exporter.url} has no metric nonsense."
        assert source.sample() == {"values": {'temperature{room="a"}': 21.5}}


@pytest.mark.parametrize(
    "line",
    [
        'temperature{room="a b\\"c"} 21.5',
        "temperature 21.5",
        "temperature 21.5 1700000000000",
        'temperature{room="a"} 21.5 1700000000000',
        'temperature{room="a"}\t21.5',
        'temperature{room="a b"}\t21.5',
        "temperature  21.5",
        'temperature{room="a"} 21.5\r',
        "temperature 21.5 1700000000000\nother 7",
        'temperature{room="a"}\t21.5\nother 7',
    ],
)
def test_every_form_of_a_line_says_what_the_parser_says(exporter: Exporter, line: str) -> None:
    exporter.body = f"# TYPE temperature gauge\n\n{line}\nrest 1\n".encode()
    source = Prometheus("prometheus", ScrapedPage(exporter.url), ("temperature", "other"))
    with opened(source):
        said = {prometheus._series_key(sample): sample.value for sample in source._samples(exporter.body)}
        assert len(said) == 1 + line.count("other")
        assert source.sample() == {"values": said}


@pytest.mark.parametrize(
    ("answer", "pages_read"),
    [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na 1\r\n1\r\n\n\r\n0\r\n\r\n", "a 1\n"),
        ("HTTP/1.0 200 OK\r\n\r\na 1\n", "a 1\n"),
        ("HTTP/1.0 200 OK\r\nContent-Encoding: none, identity\r\n\r\na 1\n", "a 1\n"),
        ("HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\na 1\n", "is compressed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na 1\n", "inside the body of the answer"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "inside the headers of the answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "cannot be read"),
        ("HTTP/1.1 200 OK\r\nAge: 12\r\nContent-Length: 4\r\n\r\na 1\n", r"out of a cache on the way \(Age: 12\)"),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "answers 302"),
    ],
)
def test_an_answer_is_whole_or_a_sentence(answer: str, pages_read: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                peer, _ = server.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        page = ScrapedPage(f"http://127.0.0.1:{server.getsockname()[1]}/m")
        for _ in range(2):  # the second time on another connection, for this server keeps none
            if pages_read.startswith("a "):
                assert page.read().decode() == pages_read
            else:
                with pytest.raises(SourceError, match=pages_read):
                    page.read()
        page.close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>not this</html>", "is not a page of Prometheus metrics"),
        (200, b"\xff\xfe\x00", "is not a page of Prometheus metrics"),
        (200, b"x" * 9_000_000, "is longer than 8 MB"),
        (200, b"", "has no metric"),
        (404, b"", "answers 404"),
    ],
)
def test_rubbish_is_a_sentence(
    exporter: Exporter, status: int, body: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scraped_page, "PAGE_LIMIT_S", 60.0)  # 9 MB may take longer than the 2 s on a busy machine
    exporter.status, exporter.body = status, body
    source = Prometheus("dcgm", ScrapedPage(exporter.url))
    with pytest.raises(SourceError, match=says), opened(source):
        pass


def test_a_page_that_does_not_come_is_a_sentence(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraped_page, "PAGE_LIMIT_S", 0.1)
    exporter.hang.clear()
    with (
        pytest.raises(SourceError, match=r"did not answer within 100 ms\.$"),
        opened(Ollama(ScrapedPage(exporter.url))),
    ):
        pass
    exporter.hang.set()


def test_a_page_is_read_over_one_connection_and_a_closed_one_is_opened_again(exporter: Exporter) -> None:
    exporter.body = b"x" * 100_000
    page = ScrapedPage(exporter.url)
    assert [page.read() for _ in range(3)] == [exporter.body] * 3
    assert (exporter.requests, exporter.connections) == (3, 1)
    exporter.peers[0].shutdown(socket.SHUT_RDWR)
    assert page.read() == exporter.body
    assert exporter.connections == 2
    page.close()


def test_a_password_in_a_url_is_sent_and_not_said(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter.status = 401
    monkeypatch.setenv(credentials.BASIC_AUTH, "")
    (asked,) = process.parse_sources([f"dcgm={exporter.url.replace('http://', 'http://me:s%40cret@')}"])
    with pytest.raises(SourceError) as said, opened(process.make_source(asked)):
        pass
    assert str(said.value) == f"{exporter.url} answers 401: it does not accept what it was sent of credentials."
    assert exporter.authorization == "Basic bWU6c0BjcmV0"


def test_ollama_is_not_whatever_answers_json(exporter: Exporter) -> None:
    for body in (b"[]", b'{"models": [1]}', b"{}", b"nothing"):
        exporter.body = body
        with (
            pytest.raises(SourceError, match="does not answer as Ollama does"),
            opened(Ollama(ScrapedPage(exporter.url))),
        ):
            pass


def test_the_simulated_servers_pages_agree(simulated_url: str) -> None:
    import httpx

    httpx.post(f"{simulated_url}/api/generate", json={"model": "llama3.1:70b"})  # loads it
    ollama, dcgm = (
        Ollama(ScrapedPage(f"{simulated_url}/api/ps")),
        Prometheus("dcgm", ScrapedPage(f"{simulated_url}/metrics")),
    )
    llamacpp = Prometheus("llamacpp", ScrapedPage(f"{simulated_url}/metrics"))
    with opened(ollama) as one, opened(dcgm) as other, opened(llamacpp):
        assert "profile=a100-80g-llama3.1-70b-q4" in one["simulated"] == other["simulated"]
        (model,) = ollama.sample()["models"]
        seen = dcgm.sample()["values"]
        assert seen == {
            'DCGM_FI_DEV_FB_USED{gpu="0"}': round(model["size_vram"] / 2**20),
            'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': 0,
            'DCGM_FI_DEV_POWER_USAGE{gpu="0"}': 60.0,
        }
        assert llamacpp.sample()["values"]["llamacpp:requests_processing"] == 0


def test_the_recorded_answer_of_a_real_ollama_is_read(exporter: Exporter) -> None:
    recorded = json.loads((STREAMS / "ps.json").read_text())
    exporter.body = recorded["reads"][0][1].partition("\r\n\r\n")[2].encode()
    source = Ollama(ScrapedPage(exporter.url))
    with opened(source):
        models = source.sample()["models"]
    assert [model["name"] for model in models] == ["tiny:latest", "stop:latest"]
    assert [(model["size"], model["size_vram"], model["context_length"]) for model in models] == [
        (23383552, 0, 4096)
    ] * 2


def test_llamacpps_own_pages_and_process_are_read(llamacpp_url: str) -> None:
    source = Prometheus("llamacpp", ScrapedPage(f"{llamacpp_url}/metrics"))
    with opened(source) as facts:
        assert "simulated" not in facts
        values = source.sample()["values"]
    assert values["llamacpp:requests_processing"] == 0
    assert values["llamacpp:requests_deferred"] == 0
    pid = listening_pid(llamacpp_url)
    assert pid is not None
    assert "llamacpp.py" in " ".join(psutil.Process(pid).cmdline())
    host = Host(servers=[llamacpp_url])
    with opened(host) as facts:
        assert "server_process" not in facts
        eventually(lambda: "server_cpu" in host.sample())


def test_an_exemplar_is_no_value(exporter: Exporter) -> None:
    """OpenMetrics has the trace of one request behind a number, with a number of its own."""
    exporter.body = (
        b'# TYPE hits counter\nhits_total{a="1"} 5.0 # {trace_id="x y"} 0.25\n'
        b'said_total{text="1 # {no exemplar}"} 7.0\n# EOF\n'
    )
    source = Prometheus("prometheus", ScrapedPage(exporter.url), ("hits_total", "said_total"))
    with opened(source):
        assert source.sample() == {"values": {'hits_total{a="1"}': 5.0, 'said_total{text="1 # {no exemplar}"}': 7.0}}


REFUSED = {
    307: ({"Location": "/metrics/"}, "answers 307: give the address that it leads to, /metrics/."),
    404: ({}, "answers 404: it has no such page."),
    500: ({}, "answers 500: it does not give the page now."),
    200: ({"Content-Encoding": "gzip"}, "is compressed (gzip), though it was asked for as it is."),
}


@pytest.mark.parametrize("status", REFUSED)
def test_what_comes_in_place_of_a_page(exporter: Exporter, status: int) -> None:
    exporter.status = status
    exporter.headers, words = REFUSED[status]
    with pytest.raises(SourceError) as said, opened(Prometheus("vllm", ScrapedPage(exporter.url))):
        pass
    assert str(said.value) == f"{exporter.url} {words}"
