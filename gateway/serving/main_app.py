"""The main port: inference on the hot path, models and health on FastAPI; does I/O."""

from fastapi import APIRouter, FastAPI, Request, Response

from gateway.errors import bad_request
from gateway.serving.asgi import ENDPOINTS, Receive, Scope, Send, serve_inference
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.stored_responses import serve_stored

routes = APIRouter()

_RESPONSES = "/v1/responses/"


class MainApp:
    """Sends inference past the framework and everything else to it."""

    def __init__(self, gateway: Gateway, rest: FastAPI) -> None:
        self._gateway = gateway
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            endpoint = ENDPOINTS.get(path)
            if endpoint is not None and scope["method"] == "POST":
                await serve_inference(self._gateway, endpoint, scope, receive, send)
                return
            response_id = stored_response_id(scope["method"], path)
            if response_id is not None:
                await serve_stored(self._gateway, response_id, scope, send)
                return
        await self._rest(scope, receive, send)


def stored_response_id(method: str, path: str) -> str | None:
    """The id in `GET|DELETE /v1/responses/{id}` and `POST /v1/responses/{id}/cancel`, else None."""
    if not path.startswith(_RESPONSES):
        return None
    name, _, verb = path.removeprefix(_RESPONSES).partition("/")
    known = (verb == "" and method in ("GET", "DELETE")) or (verb == "cancel" and method == "POST")
    return name if name and known else None


async def _not_posted(request: Request) -> None:
    """Inference that is posted never comes here."""
    raise bad_request(f"{request.url.path} does not take {request.method}", status=405)


for _path in ENDPOINTS:
    routes.add_api_route(_path, _not_posted, methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)


@routes.get("/v1/models")
async def _models(gateway: TheGateway) -> dict[str, object]:
    return {"object": "list", "data": [_card(gateway, model) for model in gateway.router.usable_models()]}


@routes.get("/v1/models/{model:path}")
async def _model(gateway: TheGateway, model: str) -> dict[str, object]:
    if model not in gateway.router.usable_models():
        raise bad_request(f"The model `{model}` does not exist", "model", "model_not_found", 404)
    return _card(gateway, model)


@routes.get("/health")
@routes.head("/health", include_in_schema=False)
async def _health() -> Response:
    return Response(status_code=200)


@routes.get("/ready")
@routes.head("/ready", include_in_schema=False)
async def _ready(gateway: TheGateway, response: Response) -> dict[str, object]:
    usable = gateway.router.usable_models()
    ready = bool(usable) and all(usable.values())
    if not ready:
        response.status_code = 503
        response.headers["retry-after"] = "2"
    states = {replica.name: replica.reason or replica.state for replica in gateway.snapshot().replicas}
    return {"ready": ready, "models": usable, "replicas": states}


def _card(gateway: Gateway, model: str) -> dict[str, object]:
    card: dict[str, object] = {
        "id": model,
        "object": "model",
        "created": int(gateway.started_at),
        "owned_by": "prefixgate",
    }
    context_tokens = gateway.router.context_tokens(model)
    return card if context_tokens is None else {**card, "max_model_len": context_tokens}  # as engines call it
