"""Errors of every shape, as responses and as frames of a stream."""

from pathlib import Path

import pytest

from engines.dialect import Dialect
from engines.registry import DIALECTS
from engines.reports import EngineError

FIXTURES = Path(__file__).parents[1] / "fixtures"
STREAM = 200  # the status of a stream in which an error frame came


@pytest.fixture(params=sorted(DIALECTS))
def engine(request: pytest.FixtureRequest) -> Dialect:
    """Shapes are read alike by both: a proxy before either may send any."""
    return DIALECTS[str(request.param)]


@pytest.mark.parametrize(
    ("folder", "start", "param"),
    [
        ("vllm-0.25.0", "This model's maximum context length is 32768 tokens.", "input_tokens"),
        ("vllm-0.32.0", "This model's maximum context length is 16384 tokens.", "input_tokens"),
        ("sglang-0.5.16", "The input (94462 tokens) is longer than the model's context length (32768 tokens).", None),
    ],
)
def test_recorded_prompt_too_long(folder: str, start: str, param: str | None) -> None:
    error = DIALECTS[folder.split("-")[0]].read_error(400, (FIXTURES / folder / "error_too_long.json").read_bytes())
    assert error == EngineError(400, error.message, "BadRequestError", param, 400, overloaded=False, retryable=False)
    assert error.message.startswith(start)


@pytest.mark.parametrize(
    ("folder", "param"), [("vllm-0.25.0", "body.logprobs"), ("vllm-0.32.0", "body.logprobs"), ("sglang-0.5.16", None)]
)
def test_recorded_bad_field(folder: str, param: str | None) -> None:
    error = DIALECTS[folder.split("-")[0]].read_error(400, (FIXTURES / folder / "error_bad_field.json").read_bytes())
    assert (error.status, error.type, error.param, error.code) == (400, "Bad Request", param, 400)
    assert "unable to interpret input" in error.message
    assert not error.retryable


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b'{"error":{"message":"The server is busy. Please try again later.","type":"Service Unavailable",'
              b'"param":null,"code":503}}',
         EngineError(503, "The server is busy. Please try again later.", "Service Unavailable", None, 503,
                     overloaded=True, retryable=True)),
        (503, b'{"object":"error","message":"The request queue is full.","type":"503","param":null,"code":503}',
         EngineError(503, "The request queue is full.", "server_error", None, 503, overloaded=True, retryable=True)),
        (STREAM, b'{"error":{"object":"error","message":"The request queue is full.","type":"503","code":503}}',
         EngineError(503, "The request queue is full.", "server_error", None, 503, overloaded=True, retryable=True)),
        (401, b'{"error":"Unauthorized"}', EngineError(401, "Unauthorized", "authentication_error")),
        (404, b'{"detail":"Not Found"}', EngineError(404, "Not Found", "invalid_request_error")),
        (422, b'{"detail":[{"loc":["body","messages",0],"msg":"Field required"},{"msg":"Too short"},3,{"loc":5}]}',
         EngineError(422, "body.messages.0: Field required; Too short", "invalid_request_error")),
        (404, b'{"type":"error","error":{"type":"not_found_error","message":"no such model"}}',
         EngineError(404, "no such model", "not_found_error")),
        (404, b'{"error":{"message":"The model `x` does not exist","type":"NotFoundError","code":"model_not_found"}}',
         EngineError(404, "The model `x` does not exist", "NotFoundError", None, "model_not_found")),
        (500, b'{"error":{"message":"The server had an error while processing your request.",'
              b'"type":"InternalServerError","code":500}}',
         EngineError(500, "The server had an error while processing your request.", "InternalServerError", None, 500,
                     retryable=True)),
        (429, b'{"message":"slow down"}', EngineError(429, "slow down", "rate_limit_error", overloaded=True,
                                                      retryable=True)),
        (408, b'{"message":"too slow"}', EngineError(408, "too slow", "timeout_error", retryable=True)),
        (403, b'{"message":"no"}', EngineError(403, "no", "permission_error")),
        (502, b"<html><h1>502 Bad Gateway</h1></html>",
         EngineError(502, "the engine answered 502 with a body that is not JSON", "server_error", retryable=True)),
        (500, b" \n", EngineError(500, "the engine answered 500 with an empty body", "server_error", retryable=True)),
        (400, b"[1]", EngineError(400, "the engine answered 400 with a JSON body without a message",
                                  "invalid_request_error")),
        (400, b'{"error":{"message":["?"],"type":7,"param":{},"code":true}}',
         EngineError(400, "the engine answered 400 with a JSON body without a message", "invalid_request_error")),
    ],
)  # fmt: skip
def test_shapes(engine: Dialect, status: int, body: bytes, expected: EngineError) -> None:
    assert engine.read_error(status, body) == expected


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"error":{"message":"m","code":400}}', 400),
        (b'{"error":{"message":"m","code":"503"}}', 503),
        (b'{"error":{"message":"m"}}', 500),
        (b'{"error":{"message":"m","code":"model_not_found"}}', 500),
        (b'{"error":{"message":"m","code":200}}', 500),
        (b'{"error":{"message":"m","code":1000000}}', 500),
        (b'{"error":{"message":"m","code":true}}', 500),
        (b"oops", 502),
        (b"", 502),
    ],
)
def test_status_of_a_frame(engine: Dialect, body: bytes, status: int) -> None:
    error = engine.read_error(STREAM, body)
    assert error.status == status
    assert error.retryable is (status >= 500)


def test_the_status_of_a_response_beats_its_code(engine: Dialect) -> None:
    assert engine.read_error(400, b'{"error":{"message":"m","code":503}}').status == 400


def test_overload_wording_counts_only_on_the_engine_side(engine: Dialect) -> None:
    frame = b'{"error":{"message":"The request queue is full."}}'
    assert engine.read_error(STREAM, frame).overloaded
    assert engine.read_error(500, b'{"error":{"message":"x","type":"overloaded_error"}}').overloaded
    refused = engine.read_error(400, frame)
    assert not refused.overloaded
    assert not refused.retryable
