"""`prefixgate engine simulate`: one simulated engine; does I/O."""

import argparse
import os
import sys

from engines.simulated.profile import PROFILES
from engines.simulated.server import run
from engines.simulated.settings import SimulatorSettings
from gateway.cli.engine_flags import add_real_flags, settings_of
from gateway.cli.usage import Commands, UsageError, command

EXAMPLE = "prefixgate engine simulate --dialect sglang --port 30000 --speed 10"


def add_simulate(verbs: Commands) -> None:
    """Declare the command."""
    parser = command(verbs, "simulate", _simulate, "run one simulated engine that speaks a real one's dialect", EXAMPLE)
    add = parser.add_argument
    add("--dialect", choices=("vllm", "sglang"), default="vllm", help="which engine to be (default vllm)")
    add("--host", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, help="port (default 0: any free one)")
    add("--model", help="model name (default deepseek-v4-flash)")
    add("--profile", choices=tuple(PROFILES), help="timing (default vllm-w4a8 or sglang-fp4)")
    add("--speed", type=float, help="how many times faster than that hardware (default 1)")
    add("--kv-tokens", type=int, help="KV cache capacity in tokens (default: the profile's)")
    add("--block-tokens", type=int, help="block or page size (default 256)")
    add("--chunk-tokens", type=int, help="chunked-prefill size (default 8192)")
    add("--mixed-chunk", action="store_true", default=None, help="SGLang: mix prefill and decode")
    add("--max-running", type=int, help="requests that run at once (default 256)")
    add("--max-queued", type=int, help="requests that may wait before more are refused (default: any number)")
    add("--context-tokens", type=int, help="longest prompt and output together (default 131072)")
    add("--default-output-tokens", type=int, help="output without max_tokens (default 64)")
    add("--kv-events-port", type=int, help="publish KV events over ZMQ on this port (0: any free one)")
    add("--kv-events-replay-port", type=int, help="ZMQ port that replays missed events")
    add("--kv-events-topic", help="topic of the events")
    add("--kv-event-encoding", choices=("map", "array"), help="newer or older encoding (default map)")
    add("--no-cached-tokens", dest="report_cached_tokens", action="store_false", default=None,
        help="leave cached tokens out of usage, as engines do without their flag")  # fmt: skip
    add("--adapter", action="append", dest="adapters", metavar="NAME", help="a LoRA adapter to serve (repeatable)")
    add("--eager-tools", action="store_true", default=None, help="call a tool whenever there is one")
    add("--no-dev-mode", dest="dev_mode", action="store_false", default=None, help="vLLM: no /server_info, no reset")
    add("--no-metrics", dest="expose_metrics", action="store_false", default=None, help="SGLang: no /metrics")
    add("--no-health-generates", dest="health_generates", action="store_false", default=None,
        help="SGLang: /health generates no token")  # fmt: skip
    add("--per-request-metrics", action="store_true", default=None, help="vLLM: timings in each answer")
    add("--api-key-env", metavar="NAME", help="environment variable with the API key to ask for")
    add("--engine-version", dest="version", help="version to report")
    add("--seed", help="engines of different seeds give different answers")
    add("--start-s", type=float, help="how long it loads before it listens, in seconds (default 0)")
    add_real_flags(parser)


def _simulate(options: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(options).items() if value is not None}
    for other in ("run", "command", "verb"):
        given.pop(other, None)
    given = settings_of(given)
    variable = given.pop("api_key_env", None)
    given["adapters"] = tuple(given.get("adapters", ()))
    try:
        settings = SimulatorSettings(**given, api_key=_key(variable))
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        run(settings, lambda url: print(f"simulated {settings.dialect} engine listens on {url}", flush=True))
    except OSError as error:
        print(
            f"prefixgate: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    except RuntimeError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    return 0


def _key(variable: str | None) -> str | None:
    return None if variable is None else os.environ.get(variable)
