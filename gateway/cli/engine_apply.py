"""`prefixgate engine apply`: brings a pool's replicas to its prefill settings, through the gateway; does I/O."""

import argparse
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
from rich.console import Console

from engines.reports import PrefillSettings
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import Config, load

_LOOK_S: Final = 0.5
_PATIENCE_S: Final = 30.0
_SETTINGS: Final = tuple(field.name for field in fields(PrefillSettings))
_STYLES: Final = {
    "done": "green", "kept": "green", "up": "green", "worse": "bold red", "refused": "bold red", "roll-back": "yellow",
}  # fmt: skip
_SWITCH: Final = {"on": True, "off": False}


class _ProblemError(Exception):
    """It did not work out; the message is one sentence."""


def add_apply(verbs: Commands) -> None:
    """Declare `engine apply`."""
    parser = command(
        verbs,
        "apply",
        _apply,
        "bring the replicas of a pool to its prefill settings, one after the other, while the gateway serves",
        "prefixgate engine apply --config gateway.toml --pool sglang-fp4 --chunk-tokens 16384 --wait",
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML configuration, which says where the gateway is")
    add("--url", metavar="ADMIN", help="or the URL of its admin port")
    add("--token-env", metavar="NAME", help="environment variable with its token (default: as the configuration says)")
    add("--pool", metavar="NAME", help="which pool (default: the only one of the configuration)")
    add("--chunk-tokens", type=int, metavar="N", help="tokens of a step's prefill (default: as it is wished now)")
    add("--long-prefill-threshold", type=int, metavar="N", help="vLLM: what one long prompt may take of a step")
    add("--max-prefill-tokens", type=int, metavar="N", help="SGLang: tokens of one batch of prefill")
    add("--mixed-chunk", choices=tuple(_SWITCH), help="SGLang: prefill and decode in one batch")
    add("--experiment", metavar="NAME", help="record it under this name")
    add("--force", action="store_true", help="take even the last replica of a model")
    add("--cancel", action="store_true", help="stop the change that runs instead")
    add("--wait", action="store_true", help="show its steps until it is over; exit 1 unless it is done")
    add("--json", action="store_true", help="print JSON: how the pool stands, at the end with --wait")


def _apply(options: argparse.Namespace) -> int:
    config = None if options.config is None else load(options.config)
    url, headers = _admin(options.url, config, options.token_env)
    pool = _pool(options.pool, config)
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_PATIENCE_S, trust_env=False) as http:
            if options.cancel:
                return _cancel(http, pool, options)
            return _change(http, pool, options)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _fail(f"the gateway at {url} does not answer: {error}")
    except _ProblemError as problem:
        return _fail(str(problem))


def _admin(url: str | None, config: Config | None, token_env: str | None) -> tuple[str, dict[str, str]]:
    if config is None or url is not None:
        if url is None or config is not None:
            raise UsageError("say where the gateway is: --config FILE, or --url ADMIN")
        base = url.rstrip("/")
    else:
        server = config.server
        scheme = "http" if server.tls_cert is None else "https"
        base, token_env = f"{scheme}://{server.host}:{server.admin}", token_env or server.admin_token_env
    token = os.environ.get(token_env, "") if token_env else ""
    return base, {"authorization": f"Bearer {token}"} if token else {}


def _pool(name: str | None, config: Config | None) -> str:
    if name is not None:
        return name
    if config is None or len(config.pools) != 1:
        raise UsageError("say which pool: --pool NAME")
    return config.pools[0].name


def _change(http: httpx.Client, pool: str, options: argparse.Namespace) -> int:
    wish = {name: value for name in _SETTINGS if (value := getattr(options, name)) is not None}
    if "mixed_chunk" in wish:
        wish["mixed_chunk"] = _SWITCH[wish["mixed_chunk"]]
    query = {"experiment": options.experiment} if options.experiment else {}
    if options.force:
        query["force"] = "true"
    begun = _told(http.put(_path(pool), json=wish, params=query))
    if not options.wait:
        _print(begun if options.json else f"{begun['id']} of the pool {pool} has begun; keep it in the file:")
        if not options.json:
            _print(begun["write"])
        return 0
    change = _watched(http, pool, begun["id"], quiet=options.json)
    if options.json:
        _print(_told(http.get(_path(pool))))
    elif change["state"] == "done" and wish:
        _print(f"keep it in the file, or a reload or restart goes back:\n{begun['write']}")
    return 0 if change["state"] == "done" else 1


def _cancel(http: httpx.Client, pool: str, options: argparse.Namespace) -> int:
    cancelled = _told(http.post(f"{_path(pool)}/cancel"))
    _print(cancelled if options.json else f"{cancelled['id']} stops at the next step")
    return 0


def _watched(http: httpx.Client, pool: str, change: str, *, quiet: bool) -> dict[str, Any]:
    """Show each step as it comes, until there are no more."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=quiet)
    shown = 0
    with console.status(f"{pool}: {change}") as status:
        while True:
            seen: dict[str, Any] | None = _told(http.get(_path(pool)))["change"]
            if seen is None or seen["id"] != change:
                raise _ProblemError(f"the gateway knows {change} no more: it ended meanwhile")
            for step in seen["steps"][shown:]:
                at = time.strftime("%H:%M:%S", time.localtime(step["at"]))
                who = f"{step['replica']} " if step["replica"] else ""
                console.print(f"{at}  {who}{step['said']}", style=_STYLES.get(step["what"]))
            shown = len(seen["steps"])
            if seen["state"] != "running":
                return seen
            status.update("  ".join(f"{name}: {how}" for name, how in seen["replicas"].items()))
            time.sleep(_LOOK_S)


def _path(pool: str) -> str:
    return f"/api/pools/{pool}/prefill"


def _told(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of a good answer. Raises _ProblemError with the words of another one."""
    try:
        body = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise _ProblemError(f"{answer.url} answered {answer.status_code}, and no JSON") from error
    if answer.status_code >= 400:
        raise _ProblemError(str(body.get("error", {}).get("message", answer.text)))
    return body


def _print(said: object) -> None:
    print(said if isinstance(said, str) else msgspec.json.format(msgspec.json.encode(said), indent=2).decode())


def _fail(sentence: str) -> int:
    print(f"prefixgate: {sentence}", file=sys.stderr)
    return 1
