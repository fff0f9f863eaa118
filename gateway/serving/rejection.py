"""The router's refusal as an error response; pure."""

from typing import Final

from gateway.errors import GatewayError, Origin
from gateway.routing.decision import Rejection, RejectionReason

_STATUS: Final = {
    RejectionReason.MODEL_REQUIRED: 400,
    RejectionReason.MODEL_NOT_FOUND: 404,
    RejectionReason.UNKNOWN_PIN: 400,
    RejectionReason.NO_REPLICA: 503,
    RejectionReason.ALL_TRIED: 503,
    RejectionReason.QUEUE_FULL: 429,  # which OpenAI's clients retry, after the time that they are told
    RejectionReason.QUEUE_DEADLINE: 429,
}
_ABOUT_THE_MODEL: Final = (RejectionReason.MODEL_REQUIRED, RejectionReason.MODEL_NOT_FOUND)


def rejection_error(rejection: Rejection) -> GatewayError:
    """What a client is told; the reason is the error's `code`."""
    status = _STATUS[rejection.reason]
    return GatewayError(
        rejection.message,
        status=status,
        origin=Origin.CLIENT if status < 429 else Origin.GATEWAY,
        type=_type(status),
        param="model" if rejection.reason in _ABOUT_THE_MODEL else None,
        code=rejection.reason,
        retry_after_s=rejection.retry_after_s,
    )


def _type(status: int) -> str:
    if status == 429:
        return "overloaded"
    return "invalid_request_error" if status < 500 else "service_unavailable"
