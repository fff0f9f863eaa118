"""Real vLLM: the plugin is installed beside it without a network, loaded by it, and mends what this version lacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from checkpoints import config_text
from real_vllm import RealVllm, free_port, launch, stop, wait_until_up

from engines.checkpoint.conversion import converted

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).parents[2]
EXAMINE = """
import json
from importlib.metadata import entry_points
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.model_executor.models.registry import ModelRegistry
from vllm.transformers_utils.configs.deepseek_v4 import DeepseekV4Config
layers = {"layer_types": ["sliding_attention"] * 2, "mlp_layer_types": ["hash_moe", "moe"]}
config = DeepseekV4Config(num_hidden_layers=2, **layers)
model, draft = (ModelRegistry._try_load_model_cls(name) for name in ("DeepseekV4ForCausalLM", "DeepSeekV4MTPModel"))
print(json.dumps([sorted(entry_points(group="vllm.general_plugins").names), config.mlp_layer_types,
                  model.packed_modules_mapping, draft.packed_modules_mapping]))
"""
ALIAS = """
import json, types, torch
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsLinearMethod
from prefixgate_vllm.mends import alias_scale
import linecache, sys
one = types.ModuleType("one")
sys.modules["one"] = one
source = "def project(self): return self.wo_a.weight_scale_inv"
linecache.cache["one.py"] = (len(source), None, [source], "one.py")
one.__file__ = "one.py"
told = alias_scale(one)
class Scheme:
    def process_weights_after_loading(self, layer):
        layer.weight_scale = torch.nn.Parameter(layer.weight_scale * 2, requires_grad=False)
def loaded(prefix):
    layer = torch.nn.Module()
    layer.prefix, layer.scheme = prefix, Scheme()
    layer.register_parameter("weight_scale", torch.nn.Parameter(torch.ones(2), requires_grad=False))
    CompressedTensorsLinearMethod(None).process_weights_after_loading(layer)
    return layer
layer, other = loaded("model.layers.0.attn.wo_a"), loaded("model.layers.0.attn.wo_b")
print(json.dumps([told, layer.weight_scale_inv is layer.weight_scale, layer.weight_scale_inv.tolist(),
                  [name for name, _ in layer.named_parameters()], hasattr(other, "weight_scale_inv")]))
"""
JUDGE = """
import sys, json
from engines.checkpoint.validation import validated
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
data = sys.stdin.buffer.read()
schemes = CompressedTensorsConfig.from_config(json.loads(data)["quantization_config"]).target_scheme_map
w4a8 = [name for name, scheme in schemes.items()
        if CompressedTensorsConfig._is_fp8_w4a8(scheme["weights"], scheme["input_activations"])]
print(json.dumps([validated(data), w4a8]))
"""


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plugin's own distribution is installed, for PYTHONPATH: vLLM's environment is left as it is."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "engines" / "vllm_plugin", work / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(work / "site"), str(work / "source")]
    subprocess.run([*pip, *offline], check=True, timeout=120)
    return work / "site"


def python(folder: Path, path: Path, script: str, given: bytes = b"") -> list[object]:
    """What vLLM's Python prints last, as JSON."""
    environment = os.environ | {"PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": "prefixgate"}
    command = [str(folder / "bin/python"), "-c", script]
    done = subprocess.run(command, input=given, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    told: list[object] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_it_is_found_and_mends_this_version(folder: Path, site: Path) -> None:
    names, types, model, draft = python(folder, site, EXAMINE)
    assert isinstance(names, list)
    assert "prefixgate" in names
    assert types == ["hash_moe", "moe"]
    mapping = {"gate_up_proj": ["w1", "w3"], "fused_wqa_wkv": ["wq_a", "wkv"], "fused_wkv_wgate": ["wkv", "wgate"]}
    assert model == draft == mapping


def test_the_scale_of_wo_a_gets_its_other_name_when_weights_are_loaded(folder: Path, site: Path) -> None:
    """This version reads both names; so its own method of loading is given to code that reads one."""
    told, same, scale, parameters, others = python(folder, site, ALIAS)
    assert "reads the scale of wo_a as weight_scale_inv only" in str(told)
    assert (same, scale, parameters, others) == (True, [2.0, 2.0], ["weight_scale"], False)


def test_without_it_this_version_lacks_that(folder: Path, tmp_path: Path) -> None:
    """When this fails, vLLM has learned it, and the plugin has less to do."""
    with pytest.raises(AssertionError, match="mlp_layer_types"):
        python(folder, tmp_path, EXAMINE)


def test_vllm_starts_with_it_and_says_so(
    folder: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("VLLM_PLUGINS", "prefixgate")
    log, port, events = tmp_path / "log", free_port(), (free_port(), free_port())
    server = RealVllm(port, events, log, launch(folder, log, port, events))
    try:
        wait_until_up(server)
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 2}
        answer = httpx.post(server.url + "/v1/completions", json=body, timeout=60, trust_env=False)
        assert answer.json()["usage"]["completion_tokens"] == 2
    finally:
        stop([server])
    lines = [line for line in log.read_text().splitlines() if "prefixgate:" in line]
    print(*lines, sep="\n")
    assert any("load patches wait for the modules that may lack them" in line for line in lines)
    assert not any("WARNING" in line for line in lines)


def test_vllm_reads_a_converted_config_as_w4a8(folder: Path) -> None:
    """By its own dispatch rule; and compressed-tensors' config model, which is installed there, accepts it."""
    base = config_text()
    made = converted(base, tensor_parallel=2, tool="a test").data
    before, after = python(folder, ROOT, JUDGE, base), python(folder, ROOT, JUDGE, made)
    print(f"compressed-tensors {after[0]} with {Path(sys.executable).name}: W4A8 groups {before[1]} -> {after[1]}")
    assert before[1] == []
    assert isinstance(after[1], list)
    assert len(after[1]) == 1
    assert "experts" in after[1][0]
    assert after[0]
