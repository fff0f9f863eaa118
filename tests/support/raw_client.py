"""A client that writes its own bytes, reads the answer piece by piece, and leaves when it likes, for tests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

Headers = dict[str, str]


class RawClient:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> None:
        """A whole request."""
        await self.send(post_head(len(body), path, **headers) + body)

    async def head(self) -> tuple[int, Headers]:
        """Status and headers (lower-case names) of the answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        return int(lines[0].split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body, b"" for the last one."""
        size = int(await self.reader.readline(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self, headers: Headers) -> bytes:
        """The whole body."""
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if "transfer-encoding" not in headers:
            return await self.rest()
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return b"".join(chunks)

    async def answer(self, method: str = "POST") -> tuple[int, Headers, bytes]:
        """The next answer, whole."""
        status, headers = await self.head()
        bodiless = method == "HEAD" or status < 200
        return status, headers, b"" if bodiless else await self.body(headers)

    async def error(self) -> tuple[int, str | None]:
        """The next answer, which must be an error in OpenAI's shape that ends the connection: status and code."""
        status, headers, body = await self.answer()
        assert status >= 400
        assert (headers["content-type"], headers["connection"]) == ("application/json", "close")
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["type"]
        assert await self.rest() == b""
        return status, error["code"]

    async def rest(self) -> bytes:
        """What comes until the gateway closes the connection."""
        return await self.reader.read()

    async def leave(self) -> None:
        """Close the connection at once."""
        self.writer.transport.abort()


def post_head(length: int | None, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    """The head of a POST; underscores in names of headers become hyphens. Without a length it is chunked."""
    body = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"POST {path} HTTP/1.1", "host: gateway", "content-type: application/json", body]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def raw_client(url: str, *, limit: int = 1 << 16) -> AsyncIterator[RawClient]:
    """A connection to the gateway at `url`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=limit)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
