"""The dialects that there are, by the word that names them in a config; pure."""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from engines.dialect import Dialect, Pages
from engines.reports import EngineDescription
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


def description_paths() -> tuple[str, ...]:
    """The pages by which an engine of unknown kind is recognised."""
    return tuple(dict.fromkeys(path for one in DIALECTS.values() for path in one.description_paths))


def recognise(pages: Pages) -> Dialect | None:
    """The dialect that reads most out of an engine's own pages; None where none reads anything."""
    known = {name: _known_fields(one.describe(pages)) for name, one in DIALECTS.items()}
    best = max(known, key=lambda name: known[name])
    return DIALECTS[best] if known[best] else None


def _known_fields(description: EngineDescription) -> int:
    fields: Iterable[object] = (
        description.version,
        description.prefix_caching,
        description.block_tokens,
        description.kv_capacity_tokens,
        description.prefill.chunk_tokens,
    )
    return sum(field is not None for field in fields)
