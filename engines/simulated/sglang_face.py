"""SGLang's HTTP server over the simulated engine, as of 0.5.23; does I/O."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engines.simulated import tokens
from engines.simulated.answers import anthropic_error, error_kind, json_response, new_hex, read_body
from engines.simulated.asks import Api, Ask, ReadingRules
from engines.simulated.exchange import Manners
from engines.simulated.face import Answer, Face, route
from engines.simulated.frames import DONE, FrameWriter, Terms, named_sse, sse
from engines.simulated.refusals import Refusal
from engines.simulated.replies import Wish
from engines.simulated.sequences import Job
from engines.simulated.service import EngineService
from engines.simulated.settings import SimulatorSettings
from engines.simulated.sglang_frames import SglangChatFrames, SglangCompletionFrames
from engines.simulated.sglang_metrics import sglang_metrics

_ERROR_TYPES = {400: "BadRequest", 404: "NotFoundError", 500: "InternalServerError", 503: "503"}
_STREAM_ABORT_S = 2.0
_UNARY_ABORT_S = 4.0
_HEALTH_POLL_S = 1.0


class SglangFace(Face):
    """Headers of a stream come with its first frame, a client that leaves is noticed late, errors are flat."""

    def __init__(self, settings: SimulatorSettings, service: EngineService) -> None:
        super().__init__(settings, service)
        self.manners = Manners(
            starts_at_once=False,
            stream_abort_delay_s=_STREAM_ABORT_S / settings.speed,
            unary_abort_delay_s=_UNARY_ABORT_S / settings.speed,
        )
        self.rules = ReadingRules(thinks_by_default=False, eager_tools=settings.eager_tools)
        self.health_checks = 0

    def routes(self) -> list[Route]:
        """The shared paths and SGLang's own."""
        own = [
            route("GET", "/ready", self.ready),
            route("GET", "/health", self.health),
            route("GET", "/health_generate", self.health_generate),
            route("GET", "/v1/models", self.models),
            route("GET", "/v1/models/{model}", self.one_model),
            route("GET", "/model_info", self.model_info),
            route("GET", "/get_model_info", self.model_info),
            route("GET", "/server_info", self.server_info),
            route("GET", "/get_server_info", self.server_info),
            route("GET", "/v1/loads", self.telling(self.loads)),
            route("POST", "/v1/tokenize", self.tokenize),
            route("POST", "/v1/detokenize", self.detokenize),
            route("GET", "/flush_cache", self.flush_cache),
            route("POST", "/flush_cache", self.flush_cache),
            route("POST", "/abort_request", self.abort_request),
        ]
        shared = super().routes()
        if not self.settings.expose_metrics:
            shared = [one for one in shared if one.path != "/metrics"]
        return shared + own

    def answer_id(self, ask: Ask, request: Request) -> str:  # noqa: ARG002 - X-Request-Id is ignored here
        """The body's `rid`, or a random id."""
        if ask.request_id is not None and ask.api != "responses":
            return ask.request_id
        prefixes: dict[Api, str] = {"responses": "resp_", "messages": "msg_"}
        return prefixes.get(ask.api, "") + new_hex(32)

    def openai_frames(self, api: Api, terms: Terms) -> FrameWriter:
        """SGLang's own."""
        return SglangChatFrames(terms) if api == "chat" else SglangCompletionFrames(terms)

    def error_body(self, refusal: Refusal, api: Api | None) -> dict[str, Any]:
        """Flat; nested for responses, Anthropic's own form for messages."""
        if api == "messages":
            return anthropic_error(refusal)
        kind = error_kind(refusal.kind, refusal.status, _ERROR_TYPES)
        if refusal.kind == "invalid" and refusal.status == 400:
            kind = "BadRequestError"
        error = {
            "object": "error",
            "message": refusal.message,
            "type": kind,
            "param": None,
            "code": refusal.status,
        }
        return {"error": error} if api == "responses" else error

    def check(self, ask: Ask, answer_id: str) -> None:
        """Any model name is served; a live duplicate of the `rid` is refused."""
        if ask.request_id and any(sequence.job.id == answer_id for sequence in self.service.live_sequences):
            raise Refusal(400, "invalid", f"Duplicate request ID detected: {answer_id}")

    def max_tokens(self, prompt_tokens: int, wish: Wish) -> int:
        """What the context leaves; asking for more is refused."""
        limit = self.settings.max_model_tokens
        if prompt_tokens >= limit:
            message = f"The input ({prompt_tokens} tokens) is longer than the model's context length ({limit} tokens)."
            raise Refusal(400, "invalid", message)
        if wish.max_tokens is not None and prompt_tokens + wish.max_tokens > limit:
            message = (
                f"Requested token count exceeds the model's maximum context length of {limit} tokens. You requested "
                f"a total of {prompt_tokens + wish.max_tokens} tokens: {prompt_tokens} tokens from the input messages "
                f"and {wish.max_tokens} tokens for the completion. Please reduce the number of tokens in the input "
                "messages or the completion to fit within the limit."
            )
            raise Refusal(400, "invalid", message)
        return limit - prompt_tokens

    def refuse_overload(self, ask: Ask) -> Answer:
        """503, but a stream gets 200 and the error as its only frame."""
        refusal = Refusal(503, "overloaded", "The request queue is full.")
        if not ask.stream:
            return self.refuse(refusal, ask.api)
        if ask.api == "messages":
            frames = named_sse("error", anthropic_error(refusal))
        else:
            frames = sse({"error": self.error_body(refusal, "chat")}) + DONE
        return Response(frames, media_type="text/event-stream")

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /ready."""
        return Response(status_code=503 if self.faults.unhealthy else 200)

    async def health(self, request: Request) -> Response:
        """GET /health: by default it generates a token, and looks for it once a second."""
        if self.settings.health_generates and not self.faults.unhealthy:
            return await self.health_generate(request)
        return await self.ready(request)

    async def health_generate(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /health_generate."""
        self.health_checks += 1
        one = tokens.from_ids([0])
        ticket = self.service.submit([Job(f"HEALTH_CHECK_{self.new_number()}", one, one)])
        if ticket is None:
            return Response(status_code=503)
        await asyncio.sleep(_HEALTH_POLL_S / self.settings.speed)
        while not ticket.is_over:
            await ticket.progress()
        return Response(status_code=200)

    async def models(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /v1/models: the model and its adapters."""
        names = (self.settings.model, *self.settings.adapters)
        return json_response({"object": "list", "data": [self._card(name) for name in names]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        name = request.path_params["model"]
        if name in (self.settings.model, *self.settings.adapters):
            return json_response(self._card(name))
        error = {
            "message": f"The model '{name}' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        return json_response({"error": error}, 404)

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "sglang",
            "root": name,
            "parent": None if name == self.settings.model else self.settings.model,
            "max_model_len": self.settings.max_model_tokens,
        }

    async def model_info(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /model_info."""
        return json_response(
            {
                "model_path": self.settings.model,
                "tokenizer_path": self.settings.model,
                "served_model_name": self.settings.model,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": "default",
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": "deepseek_v4",
                "architectures": ["DeepseekV4ForCausalLM"],
            }
        )

    async def server_info(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /server_info: the server arguments that mean something here, and the scheduler's state."""
        settings = self.settings
        profile = settings.engine_profile
        state = {
            "effective_max_running_requests_per_dp": settings.max_running,
            "last_gen_throughput": 0.0,
            "memory_usage": {"weight": 77.5, "kvcache": 30.0, "token_capacity": settings.capacity_tokens},
        }
        arguments = {
            "model_path": settings.model,
            "tokenizer_path": settings.model,
            "served_model_name": settings.model,
            "context_length": settings.max_model_tokens,
            "max_running_requests": settings.max_running,
            "max_queued_requests": settings.max_queued,
            "chunked_prefill_size": settings.chunk_tokens,
            "max_prefill_tokens": settings.max_prefill_tokens,
            "enable_mixed_chunk": settings.mixed_chunk,
            "schedule_policy": "fcfs",
            "page_size": settings.block_tokens,
            "tp_size": profile.gpus,
            "dp_size": 1,
            "enable_dp_attention": False,
            "disable_radix_cache": False,
            "enable_cache_report": settings.report_cached_tokens,
            "enable_metrics": settings.expose_metrics,
            "version": settings.engine_version,
            "internal_states": [state],
            "kv_events": self._kv_events(),
        }
        return json_response(arguments)

    def _kv_events(self) -> dict[str, Any] | None:
        publisher = self.service.publisher
        if publisher is None:
            return None
        events = {
            "publisher": "zmq",
            "endpoint_host": "*",
            "endpoint_port_base": publisher.port,
            "topic": self.settings.kv_events_topic,
            "block_size": self.settings.block_tokens,
            "dp_size": 1,
        }
        replay = publisher.replay_port
        return events if replay is None else {**events, "replay_endpoint_port_base": replay}

    async def loads(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /v1/loads."""
        model, settings = self.service.model, self.settings
        counters = model.counters
        uncached = model.waiting_uncached_tokens()
        usage = model.used_tokens / settings.capacity_tokens
        now = time.time()
        load = {
            "timestamp": now,
            "dp_rank": 0,
            "num_running_reqs": len(model.running),
            "num_waiting_reqs": len(model.waiting),
            "num_waiting_uncached_tokens": uncached,
            "num_used_tokens": model.used_tokens,
            "num_total_tokens": model.used_tokens + uncached,
            "num_active_tokens": model.used_tokens + uncached,
            "num_prealloc_ready_tokens": 0,
            "max_total_num_tokens": settings.capacity_tokens,
            "max_running_requests": settings.max_running,
            "token_usage": round(usage, 4),
            "gen_throughput": 0.0,
            "cache_hit_rate": round(counters.last_hit_rate, 4),
            "utilization": round(len(model.running) / settings.max_running, 4),
            "total_prefill_uncached_tokens": counters.prefilled_tokens,
            "total_prefill_busy_us": int(counters.prefill_busy_s * 1e6),
            "decode_moments": None,
            "memory": {
                "weight_gb": 77.5,
                "kv_cache_gb": 30.0,
                "graph_gb": 0.0,
                "token_capacity": settings.capacity_tokens,
            },
            "queues": {"waiting": len(model.waiting), "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0},
        }
        return json_response(
            {
                "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
                "version": settings.engine_version,
                "accelerator": "NVIDIA H200",
                "num_accelerators": settings.engine_profile.gpus,
                "loads": [load],
            }
        )

    async def flush_cache(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET or POST /flush_cache: 400 while any request is queued or running."""
        if self.service.live_sequences or not self.service.reset_cache():
            return Response("Flush cache failed: there are running or queued requests.\n", 400)
        return Response("Cache flushed.\nPlease check backend logs for more details.\n")

    async def abort_request(self, request: Request) -> Response:
        """POST /abort_request: every request whose id begins with `rid`, or all."""
        try:
            body = await read_body(request)
        except Refusal as refusal:
            return self.refuse(refusal, None)
        rid, every = str(body.get("rid") or ""), bool(body.get("abort_all"))
        chosen = [one for one in self.service.live_sequences if every or (rid and one.job.id.startswith(rid))]
        self.service.abort(chosen)
        return Response(status_code=200)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 - an endpoint
        """GET /metrics."""
        return Response(sglang_metrics(self.settings, self.service), media_type="text/plain; version=0.0.4")
