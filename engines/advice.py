"""The sentences that tell an operator which flag a replica lacks; pure, shared by the dialects."""

import dataclasses
from collections.abc import Callable
from typing import Final

from engines.reports import PrefillSettings

RenderFlags = Callable[[PrefillSettings], tuple[str, ...]]
"""A dialect's `launch_flags`."""

PREFILL_WORDS: Final = {
    "chunk_tokens": "chunk",
    "long_prefill_threshold": "long-prefill threshold",
    "max_prefill_tokens": "max prefill tokens",
    "mixed_chunk": "mixed chunk",
}
"""What each field of the prefill settings is called in sentences."""


def advise_on_prefill(
    engine: str, actual: PrefillSettings, wished: PrefillSettings, render: RenderFlags
) -> tuple[str, ...]:
    """One sentence for each wish that differs from what the replica reports, or that its engine cannot fulfil."""
    sentences = []
    for field, word in PREFILL_WORDS.items():
        wish, have = getattr(wished, field), getattr(actual, field)
        flags = render(_only(field, wish))
        if have is not None and wish is not None and wish != have:
            remedy = f"with {' '.join(flags)}" if flags else f"without {' '.join(render(_only(field, have)))}"
            sentences.append(f"{word} is {_say(have)} but the config wishes {_say(wish)}: restart {remedy}")
        elif not flags and wish is not None and not isinstance(wish, bool):
            sentences.append(f"{engine} has no setting for {word}: the config's {wish} is ignored")
    return tuple(sentences)


def _only(field: str, value: object) -> PrefillSettings:
    changes: dict[str, object] = {field: value}
    return dataclasses.replace(PrefillSettings(), **changes)  # type: ignore[arg-type]


def _say(value: int | bool) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
