"""The dialects that there are, by the word that names them in a config; pure."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from engines.dialect import Dialect
from engines.sglang import SglangDialect
from engines.vllm import VllmDialect

DIALECTS: Mapping[str, Dialect] = MappingProxyType({"sglang": SglangDialect(), "vllm": VllmDialect()})


def dialect(name: str) -> Dialect:
    """The dialect called `name`; ValueError naming the nearest valid name where there is none."""
    found = DIALECTS.get(name)
    if found is None:
        near = difflib.get_close_matches(name.lower(), DIALECTS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(DIALECTS)}"
        raise ValueError(f"unknown engine {name!r}: {hint}")
    return found
