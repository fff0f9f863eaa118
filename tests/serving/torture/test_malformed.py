"""What is not HTTP/1.1, or might be read in two ways, is refused and ends the connection; nothing is smuggled."""

import pytest
from fake_engine import COMPLETION, fake_engine, http_chunk
from gateways import at_rest, chat_bytes, gateway_over, outcomes, until
from raw_client import raw_client

BODY = chat_bytes()
LENGTH = f"content-length: {len(BODY)}"
CHUNKED = "transfer-encoding: chunked"
CHUNKS = http_chunk(BODY) + b"0\r\n\r\n"


def posted(*lines: str, body: bytes = BODY, version: str = "HTTP/1.1", line: str | None = None) -> bytes:
    first = line or f"POST /v1/chat/completions {version}"
    return ("\r\n".join((first, "host: x", *lines)) + "\r\n\r\n").encode("latin-1") + body


def got(target: str, *lines: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return posted(*lines, line=f"{method} {target} {version}", body=b"")


SMUGGLED = posted(LENGTH, "x-smuggled: yes")
REFUSED: dict[str, tuple[bytes, int]] = {
    "two lengths": (posted(LENGTH, "content-length: 5"), 400),
    "one length twice": (posted(LENGTH, LENGTH), 400),
    "a list of lengths": (posted(f"{LENGTH}, {len(BODY)}"), 400),
    "a length in letters": (posted("content-length: many"), 400),
    "a length with a sign": (posted("content-length: +5"), 400),
    "a negative length": (posted("content-length: -5"), 400),
    "a hexadecimal length": (posted("content-length: 0x10"), 400),
    "no length": (posted("content-length: "), 400),
    "a length that overflows": (posted("content-length: " + "9" * 30), 400),
    "a length in two words": (posted("content-length: 1 2"), 400),
    "a length, then chunks": (posted(LENGTH, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks, then a length": (posted(CHUNKED, LENGTH, body=b"0\r\n\r\n" + SMUGGLED), 400),
    "chunks twice": (posted(CHUNKED, CHUNKED, body=CHUNKS), 400),
    "chunks, then another coding": (posted(f"{CHUNKED}, gzip", body=CHUNKS), 400),
    "another coding, then chunks": (posted("transfer-encoding: gzip, chunked", body=CHUNKS), 501),
    "another coding": (posted("transfer-encoding: gzip"), 501),
    "identity": (posted("transfer-encoding: identity"), 501),
    "nearly chunked": (posted("transfer-encoding: xchunked", body=CHUNKS), 501),
    "chunked, with a parameter": (posted(f"{CHUNKED};q=1", body=CHUNKS), 501),
    "chunked in quotes": (posted('transfer-encoding: "chunked"', body=CHUNKS), 501),
    "a chunk size in letters": (posted(CHUNKED, body=b"zz\r\n"), 400),
    "a chunk size that overflows": (posted(CHUNKED, body=b"ffffffffffffffffff\r\n"), 400),
    "a negative chunk size": (posted(CHUNKED, body=b"-5\r\nhello\r\n"), 400),
    "a chunk size with 0x": (posted(CHUNKED, body=b"0x5\r\nhello\r\n"), 400),
    "no chunk size": (posted(CHUNKED, body=b"\r\nhello\r\n"), 400),
    "a chunk size with a space": (posted(CHUNKED, body=b"5 \r\nhello\r\n"), 400),
    "a chunk without end": (posted(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n"), 400),
    "a chunk that is too short": (posted(CHUNKED, body=b"5\r\nhell\r\n0\r\n\r\n"), 400),
    "chunks with bare line feeds": (posted(CHUNKED, body=b"5\nhello\n0\n\n"), 400),
    "bare line feeds": (posted(LENGTH).replace(b"\r\n", b"\n"), 400),
    "a bare line feed": (posted("x: a\nx-smuggled: yes", LENGTH), 400),
    "a bare carriage return": (posted("x: a\rx-smuggled: yes", LENGTH), 400),
    "a header over two lines": (posted("x: a\r\n b", LENGTH), 400),
    "a length over two lines": (posted("content-length:\r\n 5"), 400),
    "a space before the colon": (posted("x : a", LENGTH), 400),
    "a space before the length's": (posted(f"content-length : {len(BODY)}"), 400),
    "no colon": (posted("nonsense", LENGTH), 400),
    "no name": (posted(": a", LENGTH), 400),
    "NUL in a value": (posted("x: a\0b", LENGTH), 400),
    "NUL in a name": (posted("x\0: a", LENGTH), 400),
    "NUL in the path": (got("/he\0alth"), 400),
    "letters that are none in the path": (got("/\xff\xfe"), 400),
    "a method in lower case": (got("/health", method="get"), 400),
    "an unknown method": (got("/health", method="BREW"), 400),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 505),
    "HTTP/0.9, so called": (got("/health", version="HTTP/0.9"), 505),
    "HTTP/1.2": (got("/health", version="HTTP/1.2"), 400),
    "HTTP/2.0": (got("/health", version="HTTP/2.0"), 505),
    "HTTP/3.0": (got("/health", version="HTTP/3.0"), 400),
    "no version": (got("/health", version="HTTP/"), 400),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello", 400),
    "a tunnel": (got("x:443", method="CONNECT"), 405),
    "a tunnel, and what it would hide": (got("x:443", "content-length: 500", method="CONNECT") + SMUGGLED, 405),
    "an upgraded tunnel": (got("x:443", "connection: upgrade", "upgrade: x", method="CONNECT") + SMUGGLED, 405),
    "no host": (posted(LENGTH).replace(b"host: x\r\n", b""), 400),
    "two hosts": (posted(LENGTH, "Host: y"), 400),
    "one host twice": (posted(LENGTH, "host: x"), 400),
    "a host that is none": (got("/nope").replace(b"host: x", b"host: [::"), 400),
    "a host in two words": (got("/nope").replace(b"host: x", b"host: x y"), 400),
    "a host with a path": (got("/nope").replace(b"host: x", b"host: x/y"), 400),
    "a host with a user": (got("/nope").replace(b"host: x", b"host: me@x"), 400),
    "too many headers": (posted(*("x: a" for _ in range(256)), LENGTH), 431),
    "binary": (bytes(range(256)), 400),
}  # fmt: skip


async def test_each_is_refused_and_harms_nobody() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, (data, expected) in REFUSED.items():
            for before in (b"", posted(LENGTH)):
                engine.requests.clear()
                async with raw_client(run.url) as http:
                    await http.send(before + data)
                    if before:
                        assert (await http.answer())[2] == COMPLETION, name
                    status, _ = await http.error()
                    assert (name, status) == (name, expected)
                assert len(engine.requests) == bool(before), name
                assert not any("x-smuggled" in request.headers for request in engine.requests), name
        async with raw_client(run.url) as http:
            await http.send(posted(LENGTH))
            assert (await http.answer())[2] == COMPLETION
        await until(lambda: at_rest(run))
        assert outcomes(run)["completed"] == len(REFUSED) + 1
        assert set(outcomes(run)) == {"completed", "rejected"}


TAKEN = {
    "an absolute target": posted(LENGTH, line="POST http://host:1/v1/chat/completions HTTP/1.1"),
    "an absolute target without letters' case": posted(LENGTH, line="POST HTTP://host/v1/chat/completions HTTP/1.1"),
    "letters in percent": posted(LENGTH, line="POST /v1/%63hat/completions HTTP/1.1"),
    "a query": posted(LENGTH, line="POST /v1/chat/completions?api-version=1 HTTP/1.1"),
    "empty lines before": b"\r\n\r\n" + posted(LENGTH),
    "names in capitals": posted(LENGTH.upper()),
    "spaces around values": posted(f"content-length:   {len(BODY)}  "),
    "HTTP/2 as an offer": posted("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMA", LENGTH),
    "HTTP/2 as an offer, in chunks": posted("connection: Upgrade", "upgrade: h2c", CHUNKED, body=CHUNKS),
    "another protocol, not for this connection": posted("upgrade: h2c", LENGTH),
    "chunks in capitals": posted("TRANSFER-ENCODING: CHUNKED", body=CHUNKS),
    "chunks with zeros": posted(CHUNKED, body=b"0000%x\r\n%b\r\n000\r\n\r\n" % (len(BODY), BODY)),
    "odd letters": posted("x-request-id: \xff", "x-session-id: \xfe", "x-odd: \xe9\t.", LENGTH),
    "a host with a port": posted(LENGTH).replace(b"host: x", b"host: x.example:8080"),
    "an address as host": posted(LENGTH).replace(b"host: x", b"Host: [::1]:8080"),
    "an empty host": posted(LENGTH).replace(b"host: x", b"host:"),
}


async def test_these_are_taken_whole_and_the_connection_goes_on() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, data in TAKEN.items():
            engine.requests.clear()
            async with raw_client(run.url) as http:
                await http.send(data * 3)
                for _ in range(3):
                    status, headers, body = await http.answer()
                    assert (name, status, body) == (name, 200, COMPLETION)
                    assert "connection" not in headers, name
            assert [request.body for request in engine.requests] == [BODY] * 3, name
            hop_by_hop = {"upgrade", "connection", "transfer-encoding"}
            assert not any(hop_by_hop & set(request.headers) for request in engine.requests), name


NOT_HERE = {
    "a bad percent": (got("/%zz%f"), 404),
    "a percent slash in the wrong place": (got("/v1%2f"), 404),
    "all": (got("*", method="OPTIONS"), 404),
    "dots": (got("/v1/../health"), 404),
    "two slashes": (got("//x/health"), 404),
    "a fragment": (got("/health#x"), 404),
    "a websocket": (got("/v1/chat/completions", "connection: upgrade", "upgrade: websocket"), 405),
    "an odd method": (got("/health", method="PROPFIND"), 405),
}


async def test_what_is_not_here() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for name, (data, expected) in NOT_HERE.items():
            await http.send(data)
            status, headers, body = await http.answer()
            assert (name, status, headers["content-type"]) == (name, expected, "application/json")
            assert b'"error"' in body
        assert not engine.requests


async def test_head_is_answered_without_a_body() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        targets = {"/health": 200, "/nope": 404, "/v1/chat/completions": 405}
        await http.send(b"".join(got(target, method="HEAD") for target in targets) + got("/v1/models"))
        for status in targets.values():
            assert (await http.answer("HEAD"))[0] == status
        assert (await http.answer())[0] == 200


@pytest.mark.parametrize("streams", [False, True])
async def test_http_1_0(streams: bool) -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        body = chat_bytes(stream=streams)
        length = f"content-length: {len(body)}"
        async with raw_client(run.url) as http:
            for _ in range(2):
                await http.send(posted(length, "connection: keep-alive", version="HTTP/1.0", body=body))
                _, headers, answer = await http.answer()
                assert (headers["connection"], answer) == ("keep-alive", COMPLETION)
            await http.send(posted(CHUNKED, "connection: keep-alive", version="HTTP/1.0", body=CHUNKS))
            _, headers, answer = await http.answer()  # who sends chunks in HTTP/1.0 may mean another end than we do
            assert (headers["connection"], answer) == ("close", COMPLETION)
            assert await http.rest() == b""
