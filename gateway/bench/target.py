"""What a benchmark measures: a named engine, or a gateway with a pin; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from engines.registry import DIALECTS

_PINS: Final = {"pool": "x-prefixgate-pool", "replica": "x-prefixgate-replica"}
_TP: Final = re.compile(r"TP ?([1-9][0-9]*)", re.IGNORECASE)


class TargetError(ValueError):
    """A target cannot be what it is said to be; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of a benchmark. `url` "" is a row that is planned and not run.

    `headers` pin requests to a replica or pool behind a gateway. `gpus` None: not told. `api_key_env` names the
    environment variable with the bearer token.
    """

    name: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    gpus: int | None = None
    model: str | None = None
    api_key_env: str | None = None

    @property
    def config(self) -> str:
        """The name without the engine and the tensor parallelism, which have columns of their own."""
        words = [word for word in _TP.sub("", self.name).split() if word.lower() not in DIALECTS]
        return " ".join(words) or self.name

    @property
    def told_engine(self) -> str:
        """The engine that the name tells of; "" where it tells of none."""
        return next((word for word in self.name.split() if word.lower() in DIALECTS), "")


def parse_target(text: str) -> Target:
    """`NAME=URL`, where URL may end in `#replica=…` or `#pool=…`, which a gateway heeds. `TP2` in the name is its GPUs.

    Raises TargetError.
    """
    name, separator, url = text.partition("=")
    name = " ".join(name.split())
    if not separator or not name:
        raise TargetError(f"target `{text}` is not NAME=URL, as in w4a8=http://127.0.0.1:8000")
    tp = _TP.search(name)
    target = Target(name=name, url="", gpus=int(tp[1]) if tp else None)
    if not url.strip():
        return target
    try:
        parts = urlsplit(url.strip())
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or parts.query or parts.username:
        raise TargetError(f"target `{name}`: `{url}` is not a plain http:// or https:// URL")
    headers = tuple((_pin(name, key), value) for key, value in parse_qsl(parts.fragment, keep_blank_values=True))
    if parts.fragment and not all(value for _, value in headers or ((None, ""),)):
        raise TargetError(f"target `{name}`: what follows # is not replica=NAME or pool=NAME")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
    return replace(target, url=base, headers=headers)


def require_apart(names: Sequence[str]) -> None:
    """Raises TargetError where two targets have one name."""
    for name in names:
        if names.count(name) > 1:
            raise TargetError(f"two targets are called `{name}`")


def with_told(targets: Sequence[Target], told: Sequence[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` options by the target's name. Raises TargetError for a name that no target has."""
    names = {target.name for target in targets}
    values = {}
    for text in told:
        name, separator, value = text.rpartition("=")
        if not separator or name not in names:
            raise TargetError(f"{option} `{text}` is not NAME=VALUE with the name of a target")
        values[name] = value
    return values


def _pin(name: str, key: str) -> str:
    if key not in _PINS:
        raise TargetError(f"target `{name}`: `#{key}=` is not a pin; there are #replica= and #pool=")
    return _PINS[key]
