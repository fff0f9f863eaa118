"""Reads error bodies of every shape that engines and what stands before them send; pure.

Shapes: `{"error": {…}}` (vLLM, and both engines inside a stream), `{"error": "Unauthorized"}` (vLLM's guards),
the flat `{"object": "error", "message": …}` (SGLang), `{"detail": …}` (FastAPI), and bodies that are not JSON.
"""

import re

from engines.bodies import Json, read_json, read_object, read_objects, read_text
from engines.reports import EngineError

_OVERLOAD = re.compile(
    r"queue is full|queue limit|overloaded|too many requests|\bbusy\b|try again later", re.IGNORECASE
)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def read_engine_error(status: int, body: bytes) -> EngineError:
    """The error in neutral words.

    `status` is the HTTP status; one below 400 says that the body is an error frame of a stream, whose own code
    then counts: 500 when it has none, 502 when the frame cannot be read at all.
    """
    value = read_json(body)
    fields = _error_fields(value)
    code = _read_code(fields.get("code"))
    status = _effective_status(status, code, readable=bool(fields))
    message = _read_message(fields)
    kind = read_text(fields.get("type"))
    overloaded = status in (429, 503) or (
        status >= 500 and _OVERLOAD.search(f"{message or ''} {kind or ''}") is not None
    )
    return EngineError(
        status=status,
        message=message or _describe_silence(status, body, value),
        # SGLang's overload has the type "503": a number is no word.
        type=kind if kind is not None and not kind.isdigit() else _default_type(status),
        param=read_text(fields.get("param")),
        code=code,
        overloaded=overloaded,
        retryable=overloaded or status >= 500 or status == 408,
    )


def _error_fields(value: object) -> Json:
    """The object that carries the message, whatever it is wrapped in."""
    outer = read_object(value)
    inner = outer.get("error")
    if isinstance(inner, dict):
        return inner
    return {**outer, "message": inner} if read_text(inner) else outer


def _read_code(code: object) -> int | str | None:
    return code if isinstance(code, (int, str)) and not isinstance(code, bool) else None


def _effective_status(status: int, code: int | str | None, *, readable: bool) -> int:
    if 400 <= status <= 599:
        return status
    # Plain digits only: int() would also take "٥٠٣" and " 503 ".
    spelled = int(code) if isinstance(code, str) and re.fullmatch(r"[45][0-9]{2}", code) else code
    if isinstance(spelled, int) and 400 <= spelled <= 599:
        return spelled
    return 500 if readable else 502


def _read_message(fields: Json) -> str | None:
    return read_text(fields.get("message")) or read_text(fields.get("detail")) or _read_details(fields.get("detail"))


def _read_details(details: object) -> str | None:
    """FastAPI's list of validation errors as `body.messages: Field required; …`."""
    sentences = []
    for detail in read_objects(details):
        place = detail.get("loc")
        words = [str(step) for step in place if isinstance(step, (str, int))] if isinstance(place, list) else []
        sentences.append(": ".join(filter(None, (".".join(words), read_text(detail.get("msg"))))))
    return "; ".join(filter(None, sentences)) or None


def _describe_silence(status: int, body: bytes, value: object) -> str:
    if not body.strip():
        lack = "an empty body"
    elif value is None:
        lack = "a body that is not JSON"
    else:
        lack = "a JSON body without a message"
    return f"the engine answered {status} with {lack}"


def _default_type(status: int) -> str:
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
