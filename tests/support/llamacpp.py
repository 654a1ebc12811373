"""A real engine for the tests: llama.cpp's own HTTP server (xllamacpp) on a tiny random Llama written here.

Run as a program it serves until it is ended: python llamacpp.py MODEL.gguf PORT SLOTS CONTEXT_PER_SLOT HOST_CACHE_MIB.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import httpx
import numpy as np
from numpy.typing import NDArray

WORDS = [
    "the",
    "ship",
    "sails",
    "over",
    "water",
    "while",
    "people",
    "wait",
    "near",
    "old",
    "stone",
    "houses",
    "and",
    "talk",
    "about",
    "rain",
    "bread",
    "light",
    "time",
]
CONSTANT = 8.0  # residual channel 0 holds this everywhere: nothing writes to it
UNWANTED = -50.0  # its weight in the output rows of bytes, control tokens and EOS: they never win


def write_model(path: Path, *, width: int = 512, blocks: int = 6, seed: int = 7) -> None:
    """Write a random-weights Llama that emits plain words only and never ends by itself before max_tokens."""
    rng = np.random.default_rng(seed)
    tokens, kinds, wanted = _vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    heads, kv_heads = 4, 2
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(65536)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(len(token)) for token in tokens])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(value=True)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }} {% endfor %}")

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return np.asarray(rng.standard_normal((rows, columns)) / columns**0.5, dtype=np.float32)

    def silent(rows: int, columns: int) -> NDArray[np.float32]:
        values = matrix(rows, columns)
        values[0] = 0  # leaves the constant channel alone
        return values

    ones = np.ones(width, dtype=np.float32)
    embedding = rng.standard_normal((len(tokens), width)).astype(np.float32)
    embedding[:, 0] = CONSTANT
    output = matrix(len(tokens), width) * 2
    output[:, 0] = np.where(wanted, 0.0, UNWANTED)
    writer.add_tensor("token_embd.weight", embedding)
    for block in range(blocks):
        name = f"blk.{block}."
        writer.add_tensor(name + "attn_norm.weight", ones)
        writer.add_tensor(name + "attn_q.weight", matrix(width, width))
        writer.add_tensor(name + "attn_k.weight", matrix(width * kv_heads // heads, width))
        writer.add_tensor(name + "attn_v.weight", matrix(width * kv_heads // heads, width))
        writer.add_tensor(name + "attn_output.weight", silent(width, width))
        writer.add_tensor(name + "ffn_norm.weight", ones)
        writer.add_tensor(name + "ffn_gate.weight", matrix(2 * width, width))
        writer.add_tensor(name + "ffn_up.weight", matrix(2 * width, width))
        writer.add_tensor(name + "ffn_down.weight", silent(width, 2 * width))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary() -> tuple[list[str], list[int], NDArray[np.bool_]]:
    kind = gguf.TokenType
    tokens, kinds = ["<unk>", "<s>", "</s>"], [kind.UNKNOWN, kind.CONTROL, kind.CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    kinds += [kind.BYTE] * 256
    plain = ["\u2581", *map(chr, range(33, 127))]
    prefixes = sorted({"\u2581" + word[:end] for word in WORDS for end in range(1, len(word) + 1)} - set(plain))
    tokens += plain + prefixes  # SentencePiece merges pairs, so every prefix of a word must be a piece
    kinds += [kind.NORMAL] * (len(plain) + len(prefixes))
    words = {"\u2581" + word for word in WORDS}
    return tokens, [int(item) for item in kinds], np.array([token in words for token in tokens])


@contextlib.contextmanager
def serving(model: Path, *, slots: int, context: int = 4096, host_cache_mib: int = 8192) -> Iterator[str]:
    """Serve `model` from a process of its own while inside; gives the base URL once it is ready.

    `host_cache_mib` is what copies of slots' prefix caches may take; 0 switches that host cache off.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(model), str(port), str(slots), str(context), str(host_cache_mib)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(server, url)
            yield url
        finally:
            server.kill()


def _await_health(server: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert server.poll() is None, "the llama.cpp server ended before it was ready"
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)  # polling a foreign process: it gives no other sign
    raise AssertionError("the llama.cpp server was not ready within a minute")


def _serve(model: str, port: int, slots: int, context: int, host_cache_mib: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context * slots
    params.n_parallel = slots
    params.port = port
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.cpuparams.n_threads = 1
    params.cache_ram_mib = host_cache_mib
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    _serve(sys.argv[1], *map(int, sys.argv[2:6]))
