"""What a page about an engine's load says when it does not say the truth; pure."""

import json
import re
from typing import Any, Literal

Lie = Literal["zero", "absurd", "nan", "missing", "garbage"]
"""No load at all; figures of 1e300 and -1e300; figures that are none; no figures; bytes that are no page."""

_LOAD = ("running", "waiting", "queue", "usage", "used", "uncached", "active", "inflight", "retracted")
_SAMPLE = re.compile(rb"^([^#\s{]+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_GARBAGE = b"\x00\xff{{]]\xfe metrics 12 12 12\n\n# TYPE \x00\n"


def told(page: bytes, lie: Lie | None) -> bytes:
    """A page in Prometheus' text format, or of JSON, with its figures of load changed."""
    if lie is None:
        return page
    if lie == "garbage":
        return _GARBAGE
    if page.startswith(b"{"):
        return json.dumps(_changed(json.loads(page), lie, load=False)).encode()
    return _SAMPLE.sub(lambda sample: _sample(sample, lie), page)


def _sample(sample: re.Match[bytes], lie: Lie) -> bytes:
    name, labels, value = sample.group(1), sample.group(2) or b"", sample.group(3)
    if not _is_load(name.decode("ascii", "replace")):
        return sample.group()
    if lie == "missing":
        return b"# " + name
    figures: dict[Lie, bytes] = {"zero": b"0.0", "nan": b"NaN", "absurd": b"1e+300" if value == b"0.0" else b"-1e+300"}
    return name + labels + b" " + figures[lie]


def _changed(value: Any, lie: Lie, *, load: bool) -> Any:
    """JSON has no NaN: a figure that is none is null there."""
    if isinstance(value, dict):
        kept = {key: one for key, one in value.items() if not (lie == "missing" and _is_load(key))}
        return {key: _changed(one, lie, load=load or _is_load(key)) for key, one in kept.items()}
    if isinstance(value, list):
        return [_changed(one, lie, load=load) for one in value]
    if not load or isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return {"zero": 0, "nan": None, "absurd": -1e300 if value else 1e300}.get(lie, value)


def _is_load(name: str) -> bool:
    return any(word in name for word in _LOAD)
