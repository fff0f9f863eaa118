"""A W4A16 config made W4A8 in the named places, made W4A16 again, and compared with what it came from; pure.

W4A16 to W4A8 touches no weight: the experts' INT4 weights meet FP8 activations instead of BF16 ones, which the config
says by `input_activations` of their groups. Everything here works on the config's bytes, so that what is not named
stays as it is, byte for byte. The config carries the digest of the one it was made from.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engines.checkpoint.experts import FP8_PER_TOKEN, expert_groups, limits
from engines.checkpoint.json_text import appended, parse, removed, replaced
from engines.checkpoint.refusal import CheckpointError

PROVENANCE: Final = "_w4a8_conversion"
_PLACES: Final = (("quantization_config",), ("text_config", "quantization_config"), ("compression_config",))
_ACTIVATIONS: Final = "input_activations"
_ABSENT: Final = "absent"


@dataclass(frozen=True, slots=True)
class Conversion:
    """`data` is the new config, `changed` the places that differ from the old one, as dotted paths."""

    data: bytes
    changed: tuple[str, ...]


def converted(base: bytes, *, tensor_parallel: int, tool: str) -> Conversion:
    """The W4A8 config of a W4A16 one, for a kernel on `tensor_parallel` GPUs. `tool` is who does it.

    Raises CheckpointError with every reason why it cannot be.
    """
    text, config = parse(base, "the base's config.json")
    if PROVENANCE in config:
        raise CheckpointError(f"it is already converted: the config has {PROVENANCE}")
    place, quantization = _quantization(config)
    names = expert_groups(config, quantization)
    groups = quantization["config_groups"]
    if all(_is_fp8_per_token(groups[name].get(_ACTIVATIONS)) for name in names):
        raise CheckpointError(f"it is W4A8 already: input_activations of {' and '.join(names)} are FP8 per token")
    for name in names:
        reasons = limits(config, quantization, name, tensor_parallel)
        if groups[name].get(_ACTIVATIONS) is not None:
            reasons.insert(0, "input_activations is not null, so it is no W4A16 group")
        if reasons:
            raise CheckpointError(f"the W4A8 kernel cannot run {name}: {'; '.join(reasons)}")
    was = {name: None if _ACTIVATIONS in groups[name] else _ABSENT for name in names}
    for name, before in was.items():
        change = replaced if before is None else appended
        text = change(text, (*place, "config_groups", name, _ACTIVATIONS), FP8_PER_TOKEN)
    provenance = {
        "what": "input_activations of the expert groups became FP8, dynamic, per token; no weight was touched",
        "was": was,
        "source_sha256": hashlib.sha256(base).hexdigest(),
        "tool": tool,
    }
    text = appended(text, (PROVENANCE,), provenance)
    return Conversion(text.encode(), tuple(".".join(path) for path in _named_places(place, names)))


def reversed_to_base(data: bytes) -> bytes:
    """The config that this one was made from, byte for byte. Raises CheckpointError where the digest denies it."""
    text, config = parse(data, "the config.json")
    provenance = config.get(PROVENANCE)
    if not isinstance(provenance, dict):
        raise CheckpointError(f"it was not converted here: the config has no {PROVENANCE}")
    digest, was = provenance.get("source_sha256"), provenance.get("was")
    if not isinstance(digest, str) or not isinstance(was, dict):
        raise CheckpointError(f"its {PROVENANCE} holds no source_sha256 and was, so its base cannot be proven")
    place, _ = _quantization(config)
    try:
        for name, before in was.items():
            path = (*place, "config_groups", name, _ACTIVATIONS)
            text = removed(text, path) if before == _ABSENT else replaced(text, path, before)
        base = removed(text, (PROVENANCE,)).encode()
    except (ValueError, StopIteration) as error:
        raise CheckpointError(f"its {PROVENANCE} names a config group that is not there") from error
    if hashlib.sha256(base).hexdigest() != digest:
        raise CheckpointError(
            "it was changed after its conversion: undoing that does not give the base's config (by its SHA-256)"
        )
    return base


def differences(base: bytes, other: bytes) -> list[str]:
    """How `other` is not exactly the W4A8 config of `base`: one sentence each, none if it is."""
    if base == other:
        return ["config.json is the base's own: it is not converted"]
    _, old = parse(base, "the base's config.json")
    _, new = parse(other, "config.json")
    place, quantization = _quantization(old)
    names = expert_groups(old, quantization)
    named = _named_places(place, names)
    found = [
        f"config.json differs from the base's in {'.'.join(path)}, which a conversion leaves alone"
        for path in _differing(old, new)
        if path not in named
    ]
    if found:
        return found
    groups = _quantization(new)[1]["config_groups"]
    found = [
        f"config.json's input_activations of {name} are not FP8, dynamic, per token"
        for name in names
        if not _is_fp8_per_token(groups[name].get(_ACTIVATIONS))
    ]
    if PROVENANCE not in new:
        found.append(f"config.json has no {PROVENANCE}")
    digest = new.get(PROVENANCE, {}).get("source_sha256") if isinstance(new.get(PROVENANCE), dict) else None
    if digest is not None and digest != hashlib.sha256(base).hexdigest():
        found.append("config.json was made from another config than the base's (by its source_sha256)")
    elif digest is not None and not found and not _gives_back(other, base):
        found.append("config.json says what the base's says, but spells it otherwise")
    return found


def quantization_of(data: bytes) -> Mapping[str, Any]:
    """The quantization config in a config. Raises CheckpointError if there is none of compressed-tensors."""
    return _quantization(parse(data, "config.json")[1])[1]


def _gives_back(other: bytes, base: bytes) -> bool:
    try:
        return reversed_to_base(other) == base
    except CheckpointError:
        return False


def _quantization(config: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    for place in _PLACES:
        found: Any = config
        for key in place:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            method = found.get("quant_method", "compressed-tensors")
            if method != "compressed-tensors":
                raise CheckpointError(f"it is quantised by {method!r}: only compressed-tensors checkpoints become W4A8")
            return place, found
    raise CheckpointError("its config.json has no quantization_config: it is not quantised by compressed-tensors")


def _named_places(place: Sequence[str], names: Sequence[str]) -> list[tuple[str, ...]]:
    return [*((*place, "config_groups", name, _ACTIVATIONS) for name in names), (PROVENANCE,)]


def _is_fp8_per_token(value: object) -> bool:
    """Whatever else is spelled out there is compressed-tensors' default."""
    return isinstance(value, dict) and all(value.get(key) == needed for key, needed in FP8_PER_TOKEN.items())


def _differing(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the outermost values that are not the same; 1, 1.0 and true are three values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key in old and key in new:
                yield from _differing(old[key], new[key], (*path, key))
            else:
                yield (*path, key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differing(before, after, (*path, str(number)))
    elif type(old) is not type(new) or old != new:
        yield path
