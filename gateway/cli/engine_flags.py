"""The flags of real engines that a simulated one takes, so that one command line starts either; pure."""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.cli.usage import UsageError

_VALUES: Final = {
    "vllm": {
        "--max-num-batched-tokens": "chunk_tokens",
        "--long-prefill-token-threshold": "long_prefill_threshold",
        "--max-num-seqs": "max_running",
        "--max-num-queued-reqs": "max_queued",
        "--max-model-len": "context_tokens",
        "--block-size": "block_tokens",
    },
    "sglang": {
        "--chunked-prefill-size": "chunk_tokens",
        "--max-prefill-tokens": "max_prefill_tokens",
        "--max-running-requests": "max_running",
        "--max-queued-requests": "max_queued",
        "--context-length": "context_tokens",
        "--page-size": "block_tokens",
    },
}
"""Numbers, by the setting that they are."""

_SWITCHES: Final = {
    "vllm": {
        "--enable-prompt-tokens-details": "report_cached_tokens",
        "--enable-per-request-metrics": "per_request_metrics",
    },
    "sglang": {
        "--enable-cache-report": "report_cached_tokens",
        "--enable-metrics": "expose_metrics",
        "--enable-mixed-chunk": "mixed_chunk",
    },
}

_MEANINGLESS: Final = {
    "vllm": (("--tensor-parallel-size", "--kv-cache-dtype", "--gpu-memory-utilization"), ("--enforce-eager",)),
    "sglang": (("--tp-size", "--moe-runner-backend", "--mem-fraction-static"), ()),
}
"""Flags with a value, and without one, that change nothing here."""

_ENDPOINT: Final = re.compile(r"tcp://[^:]+:([0-9]{1,5})")


class _RealFlag(argparse.Action):
    """Stores the value, and of which dialect the flag was."""

    def __init__(self, *, dialect: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._dialect = dialect

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - the interface
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option: str | None = None,
    ) -> None:
        if self.dest != "meaningless":
            setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.real_flags = [*namespace.real_flags, (self._dialect, option)]


def add_real_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them; `settings_of` is for what they leave in the namespace."""
    parser.set_defaults(real_flags=[])
    group = parser.add_argument_group(
        "flags of the real engines", "accepted so that a launcher's command starts a simulated engine unchanged"
    )
    group.add_argument("model_path", nargs="?", metavar="MODEL", help="its name, without --served-model-name")
    group.add_argument("--model-path", dest="model_path_option", metavar="MODEL", help="the same, as SGLang spells it")
    group.add_argument("--served-model-name", metavar="NAME", help="as --model")
    group.add_argument("--kv-events-config", metavar="JSON", help="where KV events are published")
    group.add_argument("--trust-remote-code", action="store_true", help="changes nothing")
    group.add_argument("--disable-custom-all-reduce", action="store_true", help="changes nothing")
    for dialect in _VALUES:
        for flag, setting in _VALUES[dialect].items():
            _add(group, flag, dialect, setting, type=int, metavar="N")
        for flag, setting in _SWITCHES[dialect].items():
            _add(group, flag, dialect, setting, nargs=0)
        valued, plain = _MEANINGLESS[dialect]
        for flag in valued:
            _add(group, flag, dialect, "meaningless", metavar="X")
        for flag in plain:
            _add(group, flag, dialect, "meaningless", nargs=0)


def _add(group: argparse._ArgumentGroup, flag: str, dialect: str, setting: str, **how: Any) -> None:
    means = "changes nothing" if setting == "meaningless" else setting.replace("_", " ")
    how |= {"default": argparse.SUPPRESS, "help": f"{dialect}: {means}", "dest": setting, "dialect": dialect}
    group.add_argument(flag, action=_RealFlag, **how)


def settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """What the options say, in the simulator's words. Raises UsageError for a flag that this dialect does not have."""
    for dialect, flag in given.pop("real_flags"):
        if dialect != given["dialect"]:
            raise UsageError(f"{given['dialect']} has no flag {flag}")
    for nothing in ("trust_remote_code", "disable_custom_all_reduce"):
        given.pop(nothing)
    names = [given.pop(word, None) for word in ("served_model_name", "model", "model_path", "model_path_option")]
    model = next((name for name in names if name is not None), None)
    config = given.pop("kv_events_config", None)
    return given | ({} if model is None else {"model": model}) | ({} if config is None else _events(config))


def _events(text: str) -> dict[str, Any]:
    """`--kv-events-config`, whose publisher SGLang leaves out unless it is told, and vLLM its switch."""
    try:
        config = json.loads(text)
        ports = [_ENDPOINT.fullmatch(config.get(end) or "") for end in ("endpoint", "replay_endpoint")]
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"--kv-events-config is not understood: {error}") from error
    if config.get("enable_kv_cache_events") is False or config.get("publisher") != "zmq" or ports[0] is None:
        return {}
    replay = {} if ports[1] is None else {"kv_events_replay_port": int(ports[1][1])}
    return {"kv_events_port": int(ports[0][1]), "kv_events_topic": config.get("topic") or "", **replay}
