"""vLLM's HTTP server over the simulated engine, as of 0.33; does I/O."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engines.simulated.answers import anthropic_error, error_kind, json_response, new_hex
from engines.simulated.asks import Api, Ask, ReadingRules
from engines.simulated.exchange import Manners
from engines.simulated.face import Answer, Face, route
from engines.simulated.frames import FrameWriter, Terms
from engines.simulated.refusals import Refusal
from engines.simulated.replies import Wish
from engines.simulated.service import EngineService
from engines.simulated.settings import SimulatorSettings
from engines.simulated.vllm_frames import VllmChatFrames, VllmCompletionFrames
from engines.simulated.vllm_metrics import vllm_metrics

_ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "Service Unavailable",
}
_ID_PREFIXES: dict[Api, str] = {"chat": "chatcmpl-", "completions": "cmpl-", "messages": "chatcmpl-"}
_MAX_SALT_CHARS = 128


class VllmFace(Face):
    """Headers of a stream come at once, a client that leaves is aborted at once, errors are nested."""

    def __init__(self, settings: SimulatorSettings, service: EngineService) -> None:
        super().__init__(settings, service)
        self.manners = Manners(starts_at_once=True)
        self.rules = ReadingRules(thinks_by_default=True, eager_tools=settings.eager_tools, refuses_both_flags=True)

    def routes(self) -> list[Route]:
        """The shared paths, vLLM's own, and with dev mode those of `VLLM_SERVER_DEV_MODE=1`."""
        own = [
            route("GET", "/health", self.health),
            route("GET", "/ping", self.health),
            route("GET", "/version", self.version),
            route("GET", "/load", self.load),
            route("GET", "/kv_event_sources", self.kv_event_sources),
            route("GET", "/v1/models", self.models),
        ]
        if self.settings.dev_mode:
            own += [
                route("GET", "/server_info", self.server_info),
                route("POST", "/reset_prefix_cache", self.reset_prefix_cache),
            ]
        return super().routes() + own

    def answer_id(self, ask: Ask, request: Request) -> str:
        """`chatcmpl-` or `cmpl-` and the header `X-Request-Id`, the body's `request_id`, or a random id."""
        if ask.api == "responses":
            return ask.request_id or f"resp_{new_hex(16)}"
        given = request.headers.get("x-request-id") or ask.request_id or new_hex(16)
        return _ID_PREFIXES[ask.api] + given

    def openai_frames(self, api: Api, terms: Terms) -> FrameWriter:
        """vLLM's own."""
        return VllmChatFrames(terms) if api == "chat" else VllmCompletionFrames(terms)

    def error_body(self, refusal: Refusal, api: Api | None) -> dict[str, Any]:
        """Nested; Anthropic's own form for its API."""
        if api == "messages":
            return anthropic_error(refusal)
        kind = error_kind(refusal.kind, refusal.status, _ERROR_TYPES)
        error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.status}
        return {"error": error}

    def check(self, ask: Ask, answer_id: str) -> None:  # noqa: ARG002 - duplicates get an internal suffix here
        """Unknown models are refused, so are bad salts and stream options without a stream."""
        if ask.model and ask.model not in (self.settings.model, *self.settings.adapters):
            raise Refusal(404, "unknown_model", f"The model `{ask.model}` does not exist.", "model")
        if ask.include_usage and not ask.stream:
            raise Refusal(400, "invalid", "Stream options can only be defined when `stream=True`.", "stream_options")
        salt = ask.cache_salt
        if salt is not None and (len(salt) > _MAX_SALT_CHARS or any(mark in salt for mark in "@/\\\0")):
            raise Refusal(
                400, "invalid", "cache_salt must be 1 to 128 characters without @, /, \\ and NUL.", "cache_salt"
            )

    def max_tokens(self, prompt_tokens: int, wish: Wish) -> int:
        """What the context leaves; `max_tokens` beyond it is cut, but not when it alone exceeds the context."""
        limit = self.settings.max_model_tokens
        if wish.max_tokens is not None and wish.max_tokens > limit:
            message = f"max_tokens={wish.max_tokens} cannot be greater than max_model_len={limit}."
            raise Refusal(400, "invalid", message, "max_tokens")
        if prompt_tokens >= limit:
            message = (
                f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
                f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                f"the length of the input prompt. (parameter=input_tokens, value={limit + 1})"
            )
            raise Refusal(400, "invalid", message, "input_tokens")
        return limit - prompt_tokens

    def refuse_overload(self, ask: Ask) -> Answer:
        """503 before any stream starts."""
        message = (
            "The server is currently busy: the number of queued requests has reached its limit. "
            "Please try again later or on a different instance."
        )
        return self.refuse(Refusal(503, "overloaded", message), ask.api)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /health: 200 and nothing else."""
        return Response(status_code=503 if self.faults.unhealthy else 200)

    async def version(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /version."""
        return json_response({"version": self.settings.engine_version})

    async def load(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /load, as with `--enable-server-load-tracking`."""
        return json_response({"server_load": self.in_flight})

    async def kv_event_sources(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /kv_event_sources: where the KV events are, by data-parallel rank."""
        publisher = self.service.publisher
        if publisher is None:
            return json_response({})
        replay = publisher.replay_port
        source = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": f"tcp://*:{publisher.port}",
            "replay_endpoint": None if replay is None else f"tcp://*:{replay}",
            "buffer_steps": 10_000,
            "hwm": 100_000,
            "max_queue_size": 100_000,
            "topic": self.settings.kv_events_topic,
        }
        return json_response({"0": source})

    async def models(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /v1/models: the model and its adapters."""
        cards = [self._card(self.settings.model, None)]
        cards += [self._card(adapter, self.settings.model) for adapter in self.settings.adapters]
        return json_response({"object": "list", "data": cards})

    def _card(self, name: str, parent: str | None) -> dict[str, Any]:
        created = int(time.time())
        permission = {
            "id": f"modelperm-{new_hex(16)}",
            "object": "model_permission",
            "created": created,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": name,
            "parent": parent,
            "max_model_len": self.settings.max_model_tokens,
            "permission": [permission],
        }

    async def server_info(self, request: Request) -> Response:
        """GET /server_info: the parts of the configuration that exist here."""
        settings = self.settings
        config: dict[str, Any] = {
            "model_config": {"model": settings.model, "max_model_len": settings.max_model_tokens},
            "cache_config": {
                "block_size": settings.block_tokens,
                "enable_prefix_caching": True,
                "num_gpu_blocks": settings.capacity_tokens // settings.block_tokens,
            },
            "scheduler_config": {
                "max_num_batched_tokens": settings.chunk_tokens,
                "max_num_seqs": settings.max_running,
                "long_prefill_token_threshold": settings.long_prefill_threshold or 0,
                "enable_chunked_prefill": True,
                "max_num_queued_reqs": settings.max_queued,
            },
        }
        text = request.query_params.get("config_format", "text") == "text"
        shown = ", ".join(f"{name}={part}" for name, part in config.items()) if text else config
        return json_response({"vllm_config": shown, "vllm_env": {}, "system_env": {}})

    async def reset_prefix_cache(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """POST /reset_prefix_cache: false while a request holds a block."""
        return json_response({"success": self.service.reset_cache()})

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /metrics."""
        return Response(vllm_metrics(self.settings, self.service), media_type="text/plain; version=1.0.0")
