"""What two readers might end in different places: refused, or one request reaches an engine and nothing behind it.

Each case hides a second request where the other reading would find it. What must be refused at its first sight is in
`test_malformed`; here are the variants by which front ends and back ends have been played off against each other.
"""

import pytest
from fake_engine import COMPLETION, Request, fake_engine, http_chunk
from gateways import at_rest, chat_bytes, gateway_over, outcomes, until
from raw_client import RawClient, raw_client

BODY = chat_bytes()
LENGTH = b"content-length: %d" % len(BODY)
CHUNKED = b"transfer-encoding: chunked"
LINE = b"POST /v1/chat/completions HTTP/1.1"
HIDDEN = LINE + b"\r\nhost: x\r\nx-smuggled: yes\r\n" + LENGTH + b"\r\n\r\n" + BODY
CHUNKS = http_chunk(BODY) + b"0\r\n\r\n"


def posted(*lines: bytes, body: bytes = BODY, line: bytes = LINE, host: bytes = b"host: x\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(one + b"\r\n" for one in lines) + b"\r\n" + body


def both(coding: bytes) -> bytes:
    """A length that covers the hidden request, and chunks that end before it."""
    body = b"0\r\n\r\n" + HIDDEN
    return posted(b"content-length: %d" % len(body), coding, body=body)


def coded(value: bytes) -> bytes:
    return posted(b"transfer-encoding: " + value, body=CHUNKS + HIDDEN)


def declared(value: bytes) -> bytes:
    return posted(b"content-length: " + value, body=BODY + HIDDEN)


def in_chunks(framing: bytes) -> bytes:
    return posted(CHUNKED, body=framing + HIDDEN)


def lined(line: bytes) -> bytes:
    return posted(LENGTH, line=line)


SIZE = b"%x" % len(BODY)
REFUSED: dict[str, tuple[bytes, tuple[int, ...]]] = {
    # Length and chunks, the coding disguised
    "both, a tab before chunked": (both(b"transfer-encoding:\tchunked"), (400,)),
    "both, no space before chunked": (both(b"transfer-encoding:chunked"), (400,)),
    "both, capitals": (both(b"TrAnSfEr-EnCoDiNg: cHuNkEd"), (400,)),
    "both, a space before the colon": (both(b"transfer-encoding : chunked"), (400,)),
    "both, a tab before the colon": (both(b"transfer-encoding\t: chunked"), (400,)),
    "both, a space before the name": (both(b" transfer-encoding: chunked"), (400,)),
    "both, a tab before the name": (both(b"\ttransfer-encoding: chunked"), (400,)),
    "both, folded": (both(b"transfer-encoding:\r\n chunked"), (400,)),
    "both, folded after a comma": (both(b"transfer-encoding: identity,\r\n chunked"), (400,)),
    "both, hidden behind a bare line feed": (both(b"x: y\ntransfer-encoding: chunked"), (400,)),
    "both, hidden behind a bare carriage return": (both(b"x: y\rtransfer-encoding: chunked"), (400,)),
    "both, a vertical tab": (both(b"transfer-encoding: \x0bchunked"), (400, 501)),
    "both, a form feed": (both(b"transfer-encoding: chunked\x0c"), (400, 501)),
    "both, NUL before": (both(b"transfer-encoding: \0chunked"), (400,)),
    "both, NUL after": (both(b"transfer-encoding: chunked\0"), (400,)),
    "both, a byte of no alphabet": (both(b"transfer-encoding: \xa0chunked"), (400, 501)),
    "both, an empty coding": (both(b"transfer-encoding:"), (400, 501)),
    "both, identity": (both(b"transfer-encoding: identity"), (400, 501)),
    "both, twice": (both(CHUNKED + b"\r\n" + CHUNKED), (400,)),
    "both, identity and chunked": (both(b"transfer-encoding: identity\r\n" + CHUNKED), (400, 501)),
    "both, chunked and identity": (both(CHUNKED + b"\r\ntransfer-encoding: identity"), (400, 501)),
    "both, for another protocol": (both(CHUNKED + b"\r\nconnection: upgrade\r\nupgrade: h2c"), (400,)),
    "both, nominated as hop by hop": (both(CHUNKED + b"\r\nconnection: transfer-encoding"), (400,)),
    "both, in HTTP/1.0": (both(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1), (400,)),
    # Codings
    "chunked, chunked": (coded(b"chunked, chunked"), (400, 501)),
    "chunked, then a comma": (coded(b"chunked,"), (400, 501)),
    "a comma, then chunked": (coded(b", chunked"), (400, 501)),
    "chunked, then a semicolon": (coded(b"chunked;"), (400, 501)),
    "identity, chunked": (coded(b"identity, chunked"), (400, 501)),
    "chunked identity": (coded(b"chunked identity"), (400, 501)),
    "gzip,chunked": (coded(b"gzip,chunked"), (400, 501)),
    "chunked in single quotes": (coded(b"'chunked'"), (400, 501)),
    "chunked and something": (coded(b"chunkedx"), (400, 501)),
    "a coding of nothing": (coded(b""), (400, 501)),
    "chunked, then a tab": (coded(b"chunked\t"), (400, 501)),
    # Lengths
    "a length with a point": (declared(b"%d.0" % len(BODY)), (400,)),
    "a length with an exponent": (declared(b"1e2"), (400,)),
    "a length with a semicolon": (declared(b"%d;" % len(BODY)), (400,)),
    "a length with an underscore": (declared(b"1_0"), (400,)),
    "a length in octal": (declared(b"0o17"), (400,)),
    "a length in quotes": (declared(b'"%d"' % len(BODY)), (400,)),
    "a length in Arabic digits": (declared("٥".encode()), (400,)),
    "a length after a vertical tab": (declared(b"\x0b%d" % len(BODY)), (400,)),
    "a length with NUL": (declared(b"%d\0" % len(BODY)), (400,)),
    "a length of 2**64 more": (declared(b"%d" % (2**64 + len(BODY))), (400,)),
    "the same length twice, in a list": (declared(b"%d,%d" % (len(BODY), len(BODY))), (400,)),
    "a longer length after the right one": (declared(b"%d\r\ncontent-length: 500" % len(BODY)), (400,)),
    "a length before the right one": (declared(b"0\r\n" + LENGTH), (400,)),
    "a length with a tab before its colon": (posted(b"content-length\t: 5", body=BODY + HIDDEN), (400,)),
    # Chunks
    "a chunk size with a plus": (in_chunks(b"+" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size after a space": (in_chunks(b" " + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size before a tab": (in_chunks(SIZE + b"\t\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size with an underscore": (in_chunks(b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size of 2**64 more": (in_chunks(b"1%016x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size, bare line feed": (in_chunks(SIZE + b"\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk size, bare carriage return": (in_chunks(SIZE + b"\r" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "a chunk's end, bare line feed": (in_chunks(SIZE + b"\r\n" + BODY + b"\n0\r\n\r\n"), (400,)),
    "a chunk's end, bare carriage return": (in_chunks(SIZE + b"\r\n" + BODY + b"\r0\r\n\r\n"), (400,)),
    "a chunk that is longer than it says": (in_chunks(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "an extension with a line feed": (in_chunks(SIZE + b";a=b\nx\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "an extension with a carriage return": (in_chunks(SIZE + b";a=b\rx\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "an extension with NUL": (in_chunks(SIZE + b";a=\0\r\n" + BODY + b"\r\n0\r\n\r\n"), (400,)),
    "the last chunk, bare line feeds": (in_chunks(http_chunk(BODY) + b"0\n\n"), (400,)),
    "the last chunk without an empty line": (in_chunks(http_chunk(BODY) + b"0\r\n"), (400,)),
    "a trailer without colon": (in_chunks(http_chunk(BODY) + b"0\r\nx\r\n\r\n"), (400,)),
    "a trailer that is folded": (in_chunks(http_chunk(BODY) + b"0\r\nx: a\r\n b\r\n\r\n"), (400,)),
    "a trailer with a bare line feed": (in_chunks(http_chunk(BODY) + b"0\r\nx: a\nb: c\r\n\r\n"), (400,)),
    "a trailer that is a length": (in_chunks(http_chunk(BODY) + b"0\r\ncontent-length: 500\r\n\r\n"), (400,)),
    "a trailer that is a coding": (in_chunks(http_chunk(BODY) + b"0\r\n" + CHUNKED + b"\r\n\r\n"), (400,)),
    # Hosts and request lines
    "two hosts": (posted(b"host: y", LENGTH), (400,)),
    "the same host twice": (posted(b"host: x", LENGTH), (400,)),
    "a host over two lines": (posted(LENGTH, host=b"host:\r\n x\r\n"), (400,)),
    "a host after a space": (posted(LENGTH, host=b" host: x\r\n"), (400,)),
    "a tab in the line": (lined(b"POST\t/v1/chat/completions HTTP/1.1"), (400,)),
    "a space before the line": (lined(b" POST /v1/chat/completions HTTP/1.1"), (400,)),
    "a space after the line": (lined(b"POST /v1/chat/completions HTTP/1.1 "), (400,)),
    "a space in the target": (lined(b"POST /v1/chat completions HTTP/1.1"), (400,)),
    "the version in lower case": (lined(b"POST /v1/chat/completions http/1.1"), (400,)),
    "a version of two digits": (lined(b"POST /v1/chat/completions HTTP/1.10"), (400,)),
    "a version with a comma": (lined(b"POST /v1/chat/completions HTTP/1,1"), (400,)),
    "no target": (lined(b"POST HTTP/1.1"), (400,)),
    "a target without slash": (lined(b"POST v1/chat/completions HTTP/1.1"), (400, 404)),
    "a backslash for a slash": (lined(b"POST \\v1\\chat\\completions HTTP/1.1"), (400, 404)),
    "a method with NUL": (lined(b"PO\0ST /v1/chat/completions HTTP/1.1"), (400,)),
    "a line feed in the target": (lined(b"POST /v1/chat\n/completions HTTP/1.1"), (400,)),
    "a header in the target": (lined(b"POST /v1/chat/completions HTTP/1.1\nx-smuggled: yes"), (400,)),
    "a name with a space in it": (posted(b"x y: 1", LENGTH), (400,)),
    "a name in brackets": (posted(b"x(y): 1", LENGTH), (400,)),
    "a name with a byte of no alphabet": (posted(b"content-length\xa0: 5", LENGTH), (400,)),
    "a name with a control character": (posted(b"x\x01y: 1", LENGTH), (400,)),
}  # fmt: skip


def is_one(request: Request) -> bool:
    """Whether an engine was sent our body, framed by a length alone, with nothing that a hop keeps to itself."""
    names = [line.partition(":")[0].lower() for line in request.head.decode("latin-1").split("\r\n")[1:] if line]
    hop_by_hop = {"transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "proxy-connection"}
    return (
        request.body == BODY
        and (names.count("content-length"), names.count("host")) == (1, 1)
        and not hop_by_hop & set(names)
        and "x-smuggled" not in names
    )


async def refusals(http: RawClient) -> tuple[int, bytes]:
    """The first answer, and what follows it until the end."""
    status, _, _ = await http.answer()
    return status, await http.rest()


@pytest.mark.parametrize("after_another", [False, True])
async def test_each_is_refused_and_what_it_hides_reaches_nobody(after_another: bool) -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, (data, expected) in REFUSED.items():
            engine.requests.clear()
            async with raw_client(run.url) as http:
                await http.send((posted(LENGTH) if after_another else b"") + data)
                if after_another:
                    assert (await http.answer())[2] == COMPLETION, name
                status, rest = await refusals(http)
                assert status in expected, (name, status)
                if status != 404:  # that one is whole, and the connection may go on
                    assert rest == b"", name
            assert len(engine.requests) == after_another, name
            assert all(is_one(request) for request in engine.requests), name
        await until(lambda: at_rest(run))
        assert set(outcomes(run)) <= {"completed", "rejected"}


TAKEN: dict[str, bytes] = {
    "a coding with an underscore": posted(LENGTH, b"transfer_encoding: chunked"),
    "a length with an underscore": posted(LENGTH, b"content_length: 500"),
    "a length with zeros before": posted(b"content-length: 000%d" % len(BODY)),
    "a length and a tab": posted(LENGTH + b"\t"),
    "two spaces before the target": posted(LENGTH, line=b"POST  /v1/chat/completions HTTP/1.1"),
    "two spaces after the target": posted(LENGTH, line=b"POST /v1/chat/completions  HTTP/1.1"),
    "chunks with extensions": posted(CHUNKED, body=SIZE + b';a;b=c;d="e;f"\r\n' + BODY + b"\r\n0;x\r\n\r\n"),
    "a body that looks like chunks": posted(LENGTH, b"te: trailers, chunked", b"trailer: content-length"),
    "trailers that look like headers": posted(
        CHUNKED, body=http_chunk(BODY) + b"0\r\nhost: y\r\nx-smuggled: yes\r\nauthorization: Bearer x\r\n\r\n"
    ),
    "names that the connection keeps": posted(LENGTH, b"connection: content-length, host", b"keep-alive: 5"),
    "names of a proxy": posted(LENGTH, b"proxy-connection: keep-alive", b"x-http-method-override: DELETE"),
    "another host in the target": posted(LENGTH, line=b"POST http://other:1/v1/chat/completions HTTP/1.1"),
    "another user in the target": posted(LENGTH, line=b"POST http://u:p@other/v1/chat/completions HTTP/1.1"),
    "where it came from": posted(LENGTH, b"x-forwarded-host: other", b"forwarded: host=other", b"x-original-url: /x"),
    "a value of colons": posted(LENGTH, b"x: transfer-encoding: chunked"),
    "an empty line before": b"\r\n" + posted(LENGTH),
}


async def test_each_of_these_is_one_request_and_the_next_one_is_the_next() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, data in TAKEN.items():
            engine.requests.clear()
            async with raw_client(run.url) as http:
                await http.send(data + posted(LENGTH))
                for _ in range(2):
                    status, _, body = await http.answer()
                    assert (name, status, body) == (name, 200, COMPLETION)
            assert len(engine.requests) == 2, name
            assert all(is_one(request) for request in engine.requests), name
        await until(lambda: at_rest(run))
        assert outcomes(run) == {"completed": 2 * len(TAKEN)}
