"""A cheap engine: answers every POST at once from bytes made before, or streams chunks at a pace.

Prints its port. Knows just enough of vLLM and SGLang for gateways to take it for a healthy replica of the model `m`.
With `--cache-blocks` it remembers that many blocks of what it was asked, and says what of a prompt it had seen. It
fails where a body says so (FAIL, BREAK).
"""

import argparse
import asyncio
import json
import signal
from collections import OrderedDict
from contextlib import suppress
from typing import cast

from uvloop import new_event_loop

MODEL = "m"
BLOCK_BYTES = 1024
FAIL = b'"bench":"fail"'
BREAK = b'"bench":"break"'
"""Members of a body: to be answered with status 500, with a stream that breaks off."""
_HEAD = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PAGES = {
    b"/health": {},
    b"/health_generate": {},
    b"/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 1_000_000}]},
    b"/get_model_info": {"model_path": MODEL, "is_generation": True},
    b"/model_info": {"model_path": MODEL, "is_generation": True},
    b"/get_server_info": {"model_path": MODEL, "served_model_name": MODEL},
    b"/server_info": {"model_path": MODEL, "served_model_name": MODEL},
    b"/version": {"version": "0.0"},
}


def _usage(body_bytes: int, cached_bytes: int) -> dict[str, object]:
    return {
        "prompt_tokens": max(body_bytes // 4, 1),
        "completion_tokens": 64,
        "total_tokens": max(body_bytes // 4, 1) + 64,
        "prompt_tokens_details": {"cached_tokens": cached_bytes // 4},
    }


def _answer(body_bytes: int, cached_bytes: int) -> bytes:
    message = {"role": "assistant", "content": "word " * 64}
    whole = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(body_bytes, cached_bytes),
    }  # fmt: skip
    body = json.dumps(whole).encode()
    return _HEAD % (200, b"OK", b"application/json", len(body)) + body


def _frame(delta: dict[str, str] | None, usage: dict[str, object] | None = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": None}]
    whole = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices,
        **({} if usage is None else {"usage": usage}),
    }  # fmt: skip
    return _chunk(b"data: " + json.dumps(whole).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_CONTENT = _frame({"content": "word "})


class Cache:
    """The least recently used blocks go first; a block counts only after all that stand before it."""

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, body: bytes) -> int:
        """How many bytes of the conversation were known; now all of them are."""
        if not self._most:
            return 0
        prompt = body[body.find(b'"messages"') :]
        known, before, leading = 0, 0, True
        for at in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
            before = hash((before, prompt[at : at + BLOCK_BYTES]))
            leading = leading and before in self._blocks
            known += leading
            self._blocks[before] = None
            self._blocks.move_to_end(before)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return known * BLOCK_BYTES


class _Connection(asyncio.Protocol):
    def __init__(self, cache: Cache, chunks: int, gap_s: float, kv_tokens: int) -> None:
        self._cache = cache
        self._kv_tokens = kv_tokens
        self._chunks = chunks
        self._gap_s = gap_s
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._streams: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type

    def connection_lost(self, error: Exception | None) -> None:
        for stream in self._streams:
            stream.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            size = _content_length(head)
            if len(self._received) < end + 4 + size:
                return
            body = bytes(self._received[end + 4 : end + 4 + size])
            del self._received[: end + 4 + size]
            self._serve(head.split(b" ", 2), body)

    def _serve(self, line: list[bytes], body: bytes) -> None:
        transport = self._transport
        assert transport is not None
        if line[0] == b"POST":
            cached_bytes = self._cache.take(body)
            if FAIL in body:
                transport.write(_HEAD % (500, b"Failed", b"application/json", 2) + b"{}")
            elif BREAK in body:
                transport.write(_STREAM_HEAD + _CONTENT)
                transport.close()
            elif b'"stream":true' in body.replace(b'"stream": true', b'"stream":true'):
                stream = asyncio.get_running_loop().create_task(self._stream(transport, len(body), cached_bytes))
                self._streams.add(stream)
                stream.add_done_callback(self._streams.discard)
            else:
                transport.write(_answer(len(body), cached_bytes))
            return
        path = line[1].split(b"?")[0]
        if path == b"/metrics" and self._kv_tokens:
            told = b'vllm:cache_config_info{block_size="16",num_gpu_blocks="%d"} 1\n' % (self._kv_tokens // 16)
            transport.write(_HEAD % (200, b"OK", b"text/plain", len(told)) + told)
            return
        page = _PAGES.get(path)
        text = b"" if page is None else json.dumps(page).encode()
        status = (404, b"Not Found") if page is None else (200, b"OK")
        transport.write(_HEAD % (*status, b"application/json", len(text)) + text)

    async def _stream(self, transport: asyncio.Transport, body_bytes: int, cached_bytes: int) -> None:
        transport.write(_STREAM_HEAD + _frame({"role": "assistant", "content": ""}))
        for _ in range(self._chunks):
            await asyncio.sleep(self._gap_s)
            transport.write(_CONTENT)
        transport.write(_frame(None, _usage(body_bytes, cached_bytes)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    return int(lower[at + 17 :].split(b"\r\n", 1)[0])


async def _run(options: argparse.Namespace) -> None:
    loop, cache = asyncio.get_running_loop(), Cache(options.cache_blocks)
    pace = options.chunks, options.gap_ms / 1000
    server = await loop.create_server(
        lambda: _Connection(cache, *pace, options.kv_tokens), "127.0.0.1", options.port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--cache-blocks", type=int, default=0, help=f"of {BLOCK_BYTES} bytes each")
    parser.add_argument("--kv-tokens", type=int, default=0, help="that its cache is said to hold; 0: says nothing")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(options))
