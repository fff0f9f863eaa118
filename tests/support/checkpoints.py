"""Checkpoints like DeepSeek-V4-Flash in W4A16, small and whole: config, index, real safetensors shards; does I/O."""

import json
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ATTENTION = {
    "targets": [
        r"re:.*attn\.(wq_a|wq_b|wkv|wo_a|wo_b|fused_wqa_wkv)$",
        r"re:.*attn\.compressor\.(wgate|wkv|fused_wkv_wgate)$",
    ],
    "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128], "symmetric": True,
                "dynamic": False, "group_size": None, "actorder": None},
    "input_activations": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128, "symmetric": True,
                          "dynamic": True},
    "output_activations": None,
    "format": "float-quantized",
}  # fmt: skip
EXPERTS = {
    "targets": [r"re:.*experts\.\d+\.(w1|w2|w3|gate_proj|up_proj|down_proj|gate_up_proj)$"],
    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True,
                "dynamic": False, "actorder": None, "block_structure": None},
    "input_activations": None,
    "output_activations": None,
    "format": "pack-quantized",
}  # fmt: skip
CONFIG: Mapping[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 3,
    "n_routed_experts": 256,
    "rms_norm_eps": 1e-06,
    "routed_scaling_factor": 1.0,
    "swiglu_limit": 10.0,
    "bos_token": "<｜begin▁of▁sentence｜>",
    "quantization_config": {
        "config_groups": {"group_0": ATTENTION, "group_1": EXPERTS},
        "format": "mixed-precision",
        "global_compression_ratio": None,
        "ignore": ["lm_head", r"re:.*mtp\..*", r"re:.*shared_experts.*"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    },
    "torch_dtype": "bfloat16",
}
SMALL_FILES = {
    "tokenizer.json": b'{"version": "1.0"}',
    "generation_config.json": b'{"temperature": 1.0}\n',
    "encoding/encoding_dsv4.py": b"print('\xc3\xa9')\n",
    ".cache/huggingface/download.lock": b"",
}


def config_text(config: Mapping[str, Any] = CONFIG) -> bytes:
    """As json.dump(…, indent=2) writes it: escapes, no newline at the end."""
    return json.dumps(config, indent=2).encode()


def write_checkpoint(folder: Path, *, shards: int = 4, shard_bytes: int = 20_000, experts: int = 4) -> Path:
    """A folder of `shards` shards of about so many bytes each, written piecemeal."""
    folder.mkdir(parents=True)
    draw = random.Random(1)
    shard_of: dict[str, str] = {}
    total = 0
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        tensors = _tensors(number, shard_bytes, experts)
        write_shard(folder / name, tensors, draw)
        shard_of |= dict.fromkeys(tensors, name)
        total += sum(tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(shard_of.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_bytes(config_text())
    for path, data in SMALL_FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_shard(path: Path, tensors: Mapping[str, int], draw: random.Random) -> None:
    """Tensors by name and size in bytes, of random content."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, size in tensors.items():
        dtype, width = ("I32", 4) if name.endswith("packed") else ("F8_E4M3", 1)
        header[name] = {"dtype": dtype, "shape": [size // width], "data_offsets": [at, at + size]}
        at += size
    spelled = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(spelled)) + spelled)
        for chunk in _chunks(at):
            file.write(draw.randbytes(chunk))


def _tensors(number: int, shard_bytes: int, experts: int) -> dict[str, int]:
    prefix = f"layers.{number}.ffn.experts"
    names = [f"{prefix}.{expert}.{name}.weight_packed" for expert in range(experts) for name in ("w1", "w2", "w3")]
    packed = dict.fromkeys(names, max(4, shard_bytes // len(names) // 4 * 4))
    return packed | {f"layers.{number}.attn.wo_a.weight": 128, f"layers.{number}.attn.wo_a.weight_scale": 4}


def _chunks(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, 1 << 20)
        size -= 1 << 20
