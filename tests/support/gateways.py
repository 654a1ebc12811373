"""Real gateways on loopback, each in a process of its own: nginx, tinyproxy, microsocks, LiteLLM's proxy; and a server for them."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_S = 90.0  # for a gateway to answer; LiteLLM takes 20 s to start on a busy machine
PACKAGE = "litellm[proxy]"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed here (Debian: apt-get install {name})")
    return found


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path, **how: Any) -> Iterator[None]:
    """Run a program while inside, from when its port takes connections."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, **how) as process:
        try:
            until = time.monotonic() + READY_S
            while True:
                assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < until, f"{command[0]} is not ready: {log.read_text()[-2000:]}"
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)  # polling a foreign process: it gives no other sign
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def nginx(folder: Path, servers: str, port: int) -> Iterator[None]:
    """Run nginx with these server blocks, one of which listens at `port`."""
    program = _program("nginx")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    text = (
        f"daemon off; master_process off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;"
        f"events {{}} http {{ access_log off; {temporary} {servers} }}"
    )
    (folder / "nginx.conf").write_text(text)
    with _running([program, "-c", f"{folder}/nginx.conf", "-p", str(folder)], port, folder / "nginx.log"):
        yield


@contextlib.contextmanager
def tinyproxy(folder: Path, login: str, *ports: int) -> Iterator[str]:
    """Run tinyproxy with user:password, open to tunnels to these ports; gives host:port."""
    program, port = _program("tinyproxy"), free_port()
    lines = [
        f"Port {port}",
        "Listen 127.0.0.1",
        "Timeout 60",
        "Allow 127.0.0.1",
        f"BasicAuth {login.replace(':', ' ')}",
        "LogLevel Error",
        f'LogFile "{folder}/tinyproxy.log"',
        *(f"ConnectPort {one}" for one in ports),
    ]
    (folder / "tinyproxy.conf").write_text("\n".join(lines) + "\n")
    with _running([program, "-d", "-c", f"{folder}/tinyproxy.conf"], port, folder / "tinyproxy.out"):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def microsocks(folder: Path, login: str | None = None) -> Iterator[str]:
    """Run a SOCKS 5 proxy, with user:password where they are given; gives host:port."""
    program, port = _program("microsocks"), free_port()
    user, _, password = (login or "").partition(":")
    command = [program, "-i", "127.0.0.1", "-p", str(port), *(["-u", user, "-P", password] if login else [])]
    with _running(command, port, folder / "microsocks.log"):
        yield f"127.0.0.1:{port}"


def litellm_program(cache: Path) -> str:
    """Return LiteLLM's program from a virtual environment in `cache`, made on first use (750 MB)."""
    program = cache / "venv" / "bin" / "litellm"
    if not (cache / "whole").exists():
        shutil.rmtree(cache / "venv", ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        install = [*uv, "pip", "install", "--python", str(cache / "venv" / "bin" / "python"), PACKAGE]
        try:
            subprocess.run([*uv, "venv", "--python", sys.executable, cache / "venv"], check=True, capture_output=True)
            subprocess.run(install, check=True, capture_output=True, timeout=600)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"{PACKAGE} cannot be installed here: {error}")
        (cache / "whole").touch()
    return str(program)


@contextlib.contextmanager
def litellm(program: str, folder: Path, upstream: str, key: str) -> Iterator[str]:
    """Run LiteLLM's proxy with a key before an OpenAI server; gives its base URL. Its model is called "tiny"."""
    port = free_port()
    model = {"model": "openai/tiny", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "tiny", "litellm_params": model}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"drop_params": True},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    plain = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": os.environ["PATH"], "HOME": str(folder)}
    command = [program, "--config", f"{folder}/litellm.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with _running(command, port, folder / "litellm.log", env=plain):
        url = f"http://127.0.0.1:{port}"
        httpx.get(f"{url}/health/liveliness", trust_env=False, timeout=READY_S)
        yield url


@contextlib.contextmanager
def old_ollama(tokens: int, gap_s: float, key: str | None = None) -> Iterator[str]:
    """Serve as an Ollama does over HTTP/1.0, which nginx speaks by default: an answer lasts until its connection closes.

    With a `key` every request wants it as a bearer. Gives host:port.
    """
    details = {"parameter_size": "7B", "quantization_level": "Q4_0"}
    pages = {
        "/api/version": {"version": "0.24.0"},
        "/api/tags": {"models": [{"name": "m:latest", "model": "m:latest", "details": details}]},
        "/api/ps": {"models": [{"name": "m:latest", "size": 9, "size_vram": 9, "context_length": 4096}]},
        "/api/show": {"details": details, "model_info": {"x.context_length": 4096}},
    }

    class Handler(http.server.BaseHTTPRequestHandler):  # speaks HTTP/1.0
        def do_GET(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            if key is not None and self.headers.get("Authorization") != f"Bearer {key}":
                self._head(401, "application/json")
                self.wfile.write(b'{"error":"unauthorized"}')
            elif self.path in pages:
                self._head(200, "application/json")
                self.wfile.write(json.dumps(pages[self.path]).encode())
            elif self.path == "/api/chat":
                self._head(200, "application/x-ndjson")
                self._stream(min(int(body.get("options", {}).get("num_predict", tokens)), tokens))
            else:
                self._head(404, "text/plain")

        do_POST = do_GET

        def _head(self, status: int, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()

        def _stream(self, count: int) -> None:
            for _ in range(count):
                time.sleep(gap_s)  # the pace of this server's tokens
                self.wfile.write(b'{"message":{"role":"assistant","content":"word "},"done":false}\n')
            said = {"done": True, "done_reason": "length", "eval_count": count, "prompt_eval_count": 20}
            said |= {"eval_duration": int(count * gap_s * 1e9), "prompt_eval_duration": 10**6, "load_duration": 1000}
            self.wfile.write(json.dumps({"message": {"content": ""}, **said}).encode() + b"\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay quiet."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Stay quiet: a client that closes in mid-answer is no fault."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
