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
}
_ABOUT_THE_MODEL: Final = (RejectionReason.MODEL_REQUIRED, RejectionReason.MODEL_NOT_FOUND)


def rejection_error(rejection: Rejection) -> GatewayError:
    """What a client is told; the reason is the error's `code`."""
    status = _STATUS[rejection.reason]
    return GatewayError(
        rejection.message,
        status=status,
        origin=Origin.CLIENT if status < 500 else Origin.GATEWAY,
        type="invalid_request_error" if status < 500 else "service_unavailable",
        param="model" if rejection.reason in _ABOUT_THE_MODEL else None,
        code=rejection.reason,
        retry_after_s=rejection.retry_after_s,
    )
