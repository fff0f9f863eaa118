"""What vLLM may lack for DeepSeek-V4 in compressed-tensors: seen by examining its modules, then added; patches them.

Every mend is given a module that was just imported, returns one phrase that says what it found and did ("" where there
is nothing to say), and does nothing to what has all it needs, whatever its version. It may raise anything.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

PACKED = {
    "gate_up_proj": ["w1", "w3"],
    "fused_wqa_wkv": ["wq_a", "wkv"],
    "fused_wkv_wgate": ["wkv", "wgate"],
}
"""Layers that vLLM fuses, and the names of their parts: by these it finds how a fused layer is quantised."""
_MODELS = ("DeepseekV4ForCausalLM", "DeepSeekV4MTP")
_LAYER_TYPES = ("hash_moe", "moe")
_TYPE_LISTS = ("ALLOWED_LAYER_TYPES", "ALLOWED_MLP_LAYER_TYPES")
_MARK = "_gives_wo_a_both_scales"
_SCALES = ("weight_scale_inv", "weight_scale")


def complete_packed_modules(module: ModuleType) -> str:
    """Complete `packed_modules_mapping` of the model and of its draft (MTP)."""
    told = []
    for name in _MODELS:
        model = getattr(module, name, None)
        if model is None:
            continue
        present = getattr(model, "packed_modules_mapping", None) or {}
        missing = {fused: parts for fused, parts in PACKED.items() if fused not in present}
        if missing:
            model.packed_modules_mapping = {**present, **missing}
            told.append(f"{name}'s packed_modules_mapping lacked {', '.join(missing)}: added")
        else:
            told.append(f"{name}'s packed_modules_mapping lacks nothing")
    return "; ".join(told)


def allow_layer_types(module: ModuleType) -> str:
    """Let the config of DeepSeek-V4 name its layers' MLP types, which transformers checks against a list."""
    config: Callable[..., Any] = module.DeepseekV4Config
    if _refusal(config) is None:
        return "its config takes hash_moe layers as it is"
    lists = importlib.import_module("transformers.configuration_utils")
    for name in _TYPE_LISTS:
        allowed = getattr(lists, name, None)
        if isinstance(allowed, tuple):
            setattr(lists, name, (*allowed, *(kind for kind in _LAYER_TYPES if kind not in allowed)))
    refusal = _refusal(config)
    if refusal is not None:
        raise ValueError(f"its config still refuses hash_moe layers: {refusal}")
    return f"its config refused {' and '.join(_LAYER_TYPES)} layers; transformers' lists allow them now"


def _refusal(config: Callable[..., Any]) -> str | None:
    """Why a config with such layers is refused, None if it is not; what is raised differs between versions."""
    kinds = list(_LAYER_TYPES)
    try:
        config(num_hidden_layers=len(kinds), layer_types=["sliding_attention"] * len(kinds), mlp_layer_types=kinds)
    except Exception as error:
        if _LAYER_TYPES[0] in str(error):
            return str(error)
        raise
    return None


def alias_scale(module: ModuleType) -> str:
    """Let attention find the scale of its output projection `wo_a` under the name it reads.

    DeepSeek's own FP8 calls it `weight_scale_inv`, compressed-tensors `weight_scale`. Code that reads one alone is
    given both: set when the weights are loaded, as torch.compile sees only what is there by then.
    """
    read = scales_read(inspect.getsource(module))
    if not read:
        return ""
    if len(read) == len(_SCALES):
        return "it reads the scale of wo_a under either name"
    tensors = importlib.import_module("vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors")
    _follow_loading(tensors.CompressedTensorsLinearMethod)
    return f"it reads the scale of wo_a as {read.pop()} only; both names are there now once weights are loaded"


def scales_read(source: str) -> set[str]:
    """Which names of a scale a module's code reads from `wo_a`: as an attribute, by getattr or by hasattr."""
    read = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _is_wo_a(node.value):
            read.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            owner, name, *_ = [*node.args, ast.Constant(None), ast.Constant(None)]
            if _is_wo_a(owner) and isinstance(name, ast.Constant):
                read.add(str(name.value))
    return read & set(_SCALES)


def _is_wo_a(node: ast.expr) -> bool:
    return getattr(node, "attr", getattr(node, "id", None)) == "wo_a"


def _follow_loading(method: Any) -> None:
    original = method.process_weights_after_loading
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def process_weights_after_loading(self: Any, layer: Any) -> None:
        original(self, layer)
        if getattr(layer, "prefix", "").endswith(".wo_a"):
            present = [name for name in _SCALES if getattr(layer, name, None) is not None]
            for name in _SCALES:
                if len(present) == 1 and name not in present:
                    setattr(layer, name, getattr(layer, present[0]))

    setattr(process_weights_after_loading, _MARK, True)
    method.process_weights_after_loading = process_weights_after_loading


MENDS: Mapping[str, Callable[[ModuleType], str]] = {
    "vllm.models.deepseek_v4": complete_packed_modules,
    "vllm.model_executor.models.deepseek_v4": complete_packed_modules,
    "vllm.model_executor.models.deepseek_v4_mtp": complete_packed_modules,
    "vllm.transformers_utils.configs.deepseek_v4": allow_layer_types,
    "transformers.models.deepseek_v4.configuration_deepseek_v4": allow_layer_types,
    "vllm.models.deepseek_v4.attention": alias_scale,
    "vllm.models.deepseek_v4.nvidia.ops.attention": alias_scale,
    "vllm.models.deepseek_v4.nvidia.ops.o_proj": alias_scale,
    "vllm.model_executor.layers.deepseek_v4_attention": alias_scale,
}
"""By module: those of today's layout of vLLM, and of the one before."""
