"""The one error type of the gateway: origin × retryable × status, in OpenAI's shape; pure."""

from enum import StrEnum

import msgspec


class Origin(StrEnum):
    """Who is at fault."""

    CLIENT = "client"
    GATEWAY = "gateway"
    ENGINE = "engine"


class GatewayError(Exception):
    """A request that ends in an error response.

    `status` is the HTTP status; `type`, `param` and `code` are OpenAI's error fields; `retry_after_s` is
    sent as `Retry-After` (whole seconds, at least 1).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        origin: Origin,
        type: str = "invalid_request_error",  # noqa: A002 - OpenAI's name
        param: str | None = None,
        code: str | int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.origin = origin
        self.type = type
        self.param = param
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON body: OpenAI's `error` object; the outer `type` also makes it Anthropic's shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"type": "error", "error": error})

    def sse_frame(self, path: str = "") -> bytes:
        """The frame that ends a stream which has already begun; Anthropic's, at `/v1/messages`, name their events."""
        named = b"event: error\n" if path == "/v1/messages" else b""
        return named + b"data: " + self.body() + b"\n\n"


def bad_request(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> GatewayError:
    """The client's mistake: `message` says what to do about it."""
    return GatewayError(message, status=status, origin=Origin.CLIENT, param=param, code=code)
