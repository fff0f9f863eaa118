"""`GET /api/prefixes`: where the hottest prefix families live, and what breaks prefixes; does I/O."""

import msgspec
from fastapi import APIRouter, Response

from gateway.serving.framework import TheGateway
from gateway.serving.json_response import json_response
from gateway.serving.whole import whole_prefixes

routes = APIRouter()


@routes.get("/api/prefixes")
async def _prefixes(gateway: TheGateway) -> Response:
    return json_response(msgspec.json.encode(await whole_prefixes(gateway)))
