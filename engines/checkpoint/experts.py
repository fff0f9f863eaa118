"""Which groups of a compressed-tensors config quantise routed experts, and what the W4A8 kernel cannot run; pure.

Groups name layers as vLLM reads them: `re:PATTERN` matched from a layer's beginning, a layer's whole name, or a class
of layers (`Linear`). The limits are those of vLLM's CompressedTensorsW4A8Fp8MoEMethod and the CUTLASS reorder behind
it, read in vLLM 0.32 and 0.33.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from engines.checkpoint.refusal import CheckpointError

GROUP_SIZE: Final = 128
SIZE_MULTIPLE: Final = 256
FP8_PER_TOKEN: Final[Mapping[str, object]] = {
    "num_bits": 8,
    "type": "float",
    "strategy": "token",
    "dynamic": True,
    "symmetric": True,
}
_WEIGHTS: Final[Mapping[str, object]] = {
    "num_bits": 4,
    "type": "int",
    "strategy": "group",
    "group_size": GROUP_SIZE,
    "symmetric": True,
    "dynamic": False,
}
_DEFAULTS: Final[Mapping[str, object]] = {"type": "int", "symmetric": True, "dynamic": False}
"""What compressed-tensors takes a value for that is not spelled out."""
_CLASSES: Final = ("Linear", "RoutedExperts", "FusedMoE")
_PROJECTIONS: Final = (("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj"))
_BLOCKS: Final = ("ffn", "mlp")
_OTHERS: Final = (
    *(f"{block}.shared_experts.{name}" for block in _BLOCKS for names in _PROJECTIONS for name in names),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
    *(f"attn.{name}" for name in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "fused_wqa_wkv")),
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "o_a_proj")),
)


def expert_groups(config: Mapping[str, Any], quantization: Mapping[str, Any]) -> list[str]:
    """Names of the groups whose layers are routed experts, in the config's order.

    Raises CheckpointError where there is none, where several want the same experts, and where a group has other
    layers too: those would be changed with the experts.
    """
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise CheckpointError("the quantization config has no config_groups, so nothing says how experts are quantised")
    targets = {name: _strings(group.get("targets"), f"{name}.targets") for name, group in groups.items()}
    ignore = _strings(quantization.get("ignore") or [], "ignore")
    layers = _layers(config)
    found: set[str] = set()
    for experts in (f"{layer}.{block}.experts.0" for layer in layers for block in _BLOCKS):
        for projections in _PROJECTIONS:
            found |= _one_group_for_all([f"{experts}.{name}" for name in projections], targets, ignore)
    if not found:
        raise CheckpointError("no config group targets routed experts (layers like model.layers.0.mlp.experts.0.…)")
    for layer in (*(f"{layer}.{other}" for layer in layers[:1] for other in _OTHERS), "lm_head"):
        for name in _wanting(layer, targets, ignore):
            if name in found:
                raise CheckpointError(f"{name} targets {layer} as well as routed experts, and would change both")
    return [name for name in groups if name in found]


def limits(config: Mapping[str, Any], quantization: Mapping[str, Any], name: str, tensor_parallel: int) -> list[str]:
    """Why the kernel cannot run the group on so many GPUs: one phrase for each reason, none if it can."""
    group = quantization["config_groups"][name]
    weights = {**_DEFAULTS, **_mapping(group.get("weights"))}
    reasons = [
        f"weights.{key} is {_say(weights.get(key))} and must be {_say(needed)}"
        for key, needed in _WEIGHTS.items()
        if weights.get(key) != needed or isinstance(weights.get(key), bool) != isinstance(needed, bool)
    ]
    if weights.get("actorder") in ("group", "dynamic"):
        reasons.append(f"weights.actorder is {_say(weights['actorder'])}, which vLLM no longer loads")
    packing = group.get("format") or quantization.get("format")
    if packing != "pack-quantized":
        reasons.append(f"format is {_say(packing)} and must be 'pack-quantized'")
    return reasons + _size_limits(config, tensor_parallel)


def _size_limits(config: Mapping[str, Any], tensor_parallel: int) -> list[str]:
    sizes = config if "hidden_size" in config else _mapping(config.get("text_config"))
    hidden = sizes.get("hidden_size")
    intermediate = sizes.get("moe_intermediate_size", sizes.get("intermediate_size"))
    if not isinstance(hidden, int) or not isinstance(intermediate, int):
        return ["the config does not say hidden_size and moe_intermediate_size"]
    reasons = []
    if hidden % SIZE_MULTIPLE:
        reasons.append(f"hidden_size is {hidden} and must be a multiple of {SIZE_MULTIPLE}")
    if intermediate % (SIZE_MULTIPLE * tensor_parallel):
        reasons.append(
            f"moe_intermediate_size is {intermediate}, so each of {tensor_parallel} tensor-parallel GPUs gets "
            f"{intermediate / tensor_parallel:g} of it, which must be a multiple of {SIZE_MULTIPLE}"
        )
    return reasons


def _layers(config: Mapping[str, Any]) -> list[str]:
    count = config.get("num_hidden_layers", _mapping(config.get("text_config")).get("num_hidden_layers"))
    count = count if isinstance(count, int) and 0 < count < 1000 else 1
    return [*(f"model.layers.{number}" for number in range(count)), "mtp.0", f"model.layers.{count}"]


def _one_group_for_all(names: list[str], targets: Mapping[str, list[str]], ignore: list[str]) -> set[str]:
    """The group that wants all projections of these experts, if any does."""
    wanting = [_wanting(name, targets, ignore) for name in names]
    for name, groups in zip(names, wanting, strict=True):
        if len(groups) > 1:
            raise CheckpointError(f"{' and '.join(groups)} both target {name}: which of them counts is not clear")
        if groups != wanting[0]:
            raise CheckpointError(
                f"{(groups or wanting[0])[0]} targets some projections of routed experts and not others ({name}): "
                "vLLM loads experts only if all their projections are quantised alike"
            )
    return set(wanting[0])


def _wanting(layer: str, targets: Mapping[str, list[str]], ignore: Iterable[str]) -> list[str]:
    """Groups that want a layer: by its name; if none does, by its class."""
    if any(_names(target, layer) for target in ignore):
        return []
    by_name = [name for name, wanted in targets.items() if any(_names(target, layer) for target in wanted)]
    return by_name or [name for name, wanted in targets.items() if any(target in _CLASSES for target in wanted)]


def _names(target: str, layer: str) -> bool:
    """Some checkpoints' names begin with `model.` and some do not; vLLM takes both."""
    names = (layer, layer.removeprefix("model."))
    if not target.startswith("re:"):
        return target in names
    try:
        return any(re.match(target[3:], name) for name in names)
    except re.error as error:
        raise CheckpointError(f"the quantization config's target {target!r} is no regular expression") from error


def _strings(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise CheckpointError(f"the quantization config's {name} is not a list of strings")
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _say(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
