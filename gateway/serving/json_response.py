"""JSON bytes as a framework response; pure."""

from fastapi import Response


def json_response(body: bytes, status: int = 200) -> Response:
    """The bytes as they are."""
    return Response(body, status_code=status, media_type="application/json")
