"""What FastAPI serves on the main port: models, health, and what inference is asked wrongly; does I/O."""

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.errors import bad_request
from gateway.routing.scope import Scope
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.whole import whole_report
from gateway.tenancy.tenant import Tenant
from gateway.wire.request import Endpoint

routes = APIRouter()


async def _not_posted(request: Request) -> None:
    """Inference that is posted never comes here."""
    raise bad_request(f"{request.url.path} does not take {request.method}", status=405)


for _endpoint in Endpoint:
    routes.add_api_route(_endpoint, _not_posted, methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)


@routes.get("/v1/models")
async def _models(gateway: TheGateway, request: Request) -> dict[str, object]:
    scope = _scope(request)
    cards = [_card(gateway, model, scope) for model in gateway.router.usable_models(scope)]
    return {"object": "list", "data": cards}


@routes.get("/v1/models/{model:path}")
async def _model(gateway: TheGateway, request: Request, model: str) -> dict[str, object]:
    scope = _scope(request)
    if model not in gateway.router.usable_models(scope):
        raise bad_request(f"The model `{model}` does not exist", "model", "model_not_found", 404)
    return _card(gateway, model, scope)


def _scope(request: Request) -> Scope | None:
    """What exists for whoever asks."""
    tenant: Tenant | None = request.state.tenant
    return None if tenant is None else tenant.scope


@routes.get("/health")
@routes.head("/health", include_in_schema=False)
async def _health() -> Response:
    return Response(status_code=200)


@routes.get("/ready")
@routes.head("/ready", include_in_schema=False)
async def _ready(gateway: TheGateway, response: Response) -> dict[str, object]:
    report = await whole_report(gateway)
    usable = report.usable
    ready = bool(usable) and all(usable.values()) and not gateway.closing
    if not ready:
        response.status_code = 503
        response.headers["retry-after"] = "2"
    if gateway.tenancy is not None:  # whoever asks has no key, and need not know who is here
        return {"ready": ready}
    states = {replica.name: replica.reason or str(replica.state) for replica in report.snapshot.replicas}
    workers = {row.number: row.state for row in report.workers}
    sharing = msgspec.to_builtins(report.sharing)
    return {
        "ready": ready,
        "stopping": gateway.closing,
        "models": usable,
        "replicas": states,
        "workers": workers,
        "sharing": sharing,
    }


def _card(gateway: Gateway, model: str, scope: Scope | None) -> dict[str, object]:
    card: dict[str, object] = {
        "id": model,
        "object": "model",
        "created": int(gateway.started_at),
        "owned_by": "prefixgate",
    }
    context_tokens = gateway.router.context_tokens(model, scope)
    return card if context_tokens is None else {**card, "max_model_len": context_tokens}  # as engines call it
