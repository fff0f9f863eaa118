"""JSON bodies in and out, and what both dialects say in them alike; reads a request's body, otherwise pure."""

import uuid
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engines.simulated.frames import Choice, compact
from engines.simulated.refusals import Refusal, RefusalKind, invalid_field
from engines.simulated.rendering import Message


def said(choice: Choice) -> tuple[Message, ...]:
    """A finished answer as the message that the next turn sends back."""
    reply, generated = choice.reply, choice.sequence.generated_tokens
    message: dict[str, Any] = {"role": "assistant", "content": reply.text("content", generated)}
    if reply.reasoning_tokens:
        message["reasoning"] = reply.text("reasoning", generated)
    if name := reply.text("tool_name", generated):
        function = {"name": name, "arguments": reply.text("tool_arguments", generated)}
        message["tool_calls"] = [{"type": "function", "function": function}]
    return (message,)


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    raw = await request.body()
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid_field("", "json_invalid", f"JSON decode error: {error}") from error
    if not isinstance(body, dict):
        raise invalid_field("", "model_attributes_type", "Input should be a valid dictionary", body)
    return body


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON body."""
    return Response(compact(value), status, media_type="application/json")


def error_kind(kind: RefusalKind, status: int, names: dict[int, str]) -> str:
    """The type of an error: a validator's own phrase, or the status's name."""
    return "Bad Request" if kind == "validation" else names.get(status, "InternalServerError")


def anthropic_error(refusal: Refusal) -> dict[str, Any]:
    """The error body of `/v1/messages`."""
    types = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}
    kind = types.get(refusal.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def new_hex(length: int) -> str:
    """Random hexadecimal digits."""
    return uuid.uuid4().hex[:length]
