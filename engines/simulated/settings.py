"""The settings of one simulated engine, checked as an engine checks its own at start; pure."""

from dataclasses import dataclass
from typing import Final, Literal

from engines.simulated.profile import PROFILES, EngineProfile
from engines.simulated.published import Engine
from engines.simulated.sequences import EngineLimits

EventEncoding = Literal["map", "array"]

_VERSIONS: dict[Engine, str] = {"vllm": "0.33.0", "sglang": "0.5.23"}
SIMULATED_HEADER: Final = "x-simulated-engine"
"""Every answer of a simulated engine has it, so that no figure of one is ever taken for hardware's."""
DEFAULT_PROFILES: dict[str, str] = {"vllm": "vllm-w4a8", "sglang": "sglang-fp4"}
"""Of an engine that is not told its profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Everything that tells one simulated engine from another. Raises ValueError for what no engine would start with.

    `port` 0 takes a free one. `speed` X makes the engine X times faster than the hardware it is modelled on.
    `kv_tokens` is the KV capacity with a chunk of 8192 (None: the profile's); a larger chunk takes some of it.
    """

    dialect: Engine = "vllm"
    profile: str | None = None
    """A name of `PROFILES`; None: `vllm-w4a8` or `sglang-fp4`."""
    host: str = "127.0.0.1"
    port: int = 0
    model: str = "deepseek-v4-flash"
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters that are served beside the model."""
    speed: float = 1.0
    kv_tokens: int | None = None
    block_tokens: int = 256
    chunk_tokens: int = 8192
    mixed_chunk: bool = False
    """SGLang's option; vLLM always mixes."""
    long_prefill_threshold: int | None = None
    """vLLM's option: reported, not modelled."""
    max_prefill_tokens: int = 16_384
    """SGLang's option: reported, not modelled."""
    max_running: int = 256
    max_queued: int | None = None
    context_tokens: int = 131_072
    default_output_tokens: int = 64
    kv_events_port: int | None = None
    """ZMQ port of the KV events; 0 takes a free one, None publishes none."""
    kv_events_replay_port: int | None = None
    kv_events_topic: str = ""
    kv_event_encoding: EventEncoding = "map"
    report_cached_tokens: bool = True
    """vLLM `--enable-prompt-tokens-details`, SGLang `--enable-cache-report`."""
    per_request_metrics: bool = False
    """vLLM `--enable-per-request-metrics`."""
    health_generates: bool = True
    """SGLang's `/health` generates a token, unless this is off."""
    expose_metrics: bool = True
    """SGLang `--enable-metrics`; vLLM always has its page."""
    dev_mode: bool = True
    """vLLM's `VLLM_SERVER_DEV_MODE=1`: `/server_info` and `/reset_prefix_cache`."""
    eager_tools: bool = False
    """Whether the model calls a tool also when the request leaves it the choice."""
    api_key: str | None = None
    version: str | None = None
    seed: str = ""
    """Engines with different seeds give different answers, as different checkpoints do."""
    start_s: float = 0.0
    """How long it loads before it listens."""

    def __post_init__(self) -> None:
        if self.profile is not None and self.profile not in PROFILES:
            raise ValueError(f"no profile is called {self.profile!r}; there are {', '.join(PROFILES)}")
        if self.engine_profile.engine != self.dialect:
            raise ValueError(f"the profile {self.profile!r} is not one of {self.dialect}")
        if self.speed <= 0:
            raise ValueError("speed must be above 0")
        if self.start_s < 0:
            raise ValueError("start_s must not be negative")
        if self.dialect == "sglang" and self.chunk_tokens % self.block_tokens:
            raise ValueError("SGLang wants chunk_tokens to be a multiple of block_tokens")
        if min(self.block_tokens, self.chunk_tokens, self.max_running, self.default_output_tokens) < 1:
            raise ValueError("block, chunk, running requests and default output must be at least 1")
        if self.capacity_tokens < self.block_tokens:
            raise ValueError(f"a chunk of {self.chunk_tokens} tokens leaves no room for the KV cache")

    @property
    def engine_profile(self) -> EngineProfile:
        """The profile, at true speed."""
        return PROFILES[self.profile or DEFAULT_PROFILES[self.dialect]]

    @property
    def label(self) -> str:
        """The value of `SIMULATED_HEADER`: what it is modelled on, and how many times faster it runs."""
        return f"{self.engine_profile.name}; speed={self.speed:g}"

    @property
    def capacity_tokens(self) -> int:
        """KV capacity with this chunk, in whole blocks."""
        tokens = self.engine_profile.kv_capacity_tokens(self.chunk_tokens, self.kv_tokens)
        return tokens - tokens % self.block_tokens

    @property
    def max_model_tokens(self) -> int:
        """The longest prompt and output together: the context, or the whole KV cache where that is smaller."""
        return min(self.context_tokens, self.capacity_tokens)

    @property
    def engine_version(self) -> str:
        """The version to report."""
        return self.version or _VERSIONS[self.dialect]

    @property
    def limits(self) -> EngineLimits:
        """The limits of the model inside."""
        return EngineLimits(
            kv_tokens=self.capacity_tokens,
            block_tokens=self.block_tokens,
            chunk_tokens=self.chunk_tokens,
            max_running=self.max_running,
            max_queued=self.max_queued,
            mixed_chunk=self.dialect == "vllm" or self.mixed_chunk,
        )
