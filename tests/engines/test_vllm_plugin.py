"""The load patches on stand-ins of vLLM: one that lacks everything, one that lacks nothing, and some that are odd."""

import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from engines.vllm_plugin.mends import PACKED, scales_read

PLUGIN = Path(__file__).parents[2] / "engines" / "vllm_plugin"

OLD_TYPES = """
    ALLOWED_LAYER_TYPES = ("full_attention", "sliding_attention")
    class Config:
        def __init__(self, num_hidden_layers, layer_types, mlp_layer_types):
            for kind in (*layer_types, *mlp_layer_types):
                if kind not in ALLOWED_LAYER_TYPES:
                    raise ValueError(f"{kind} must be in {ALLOWED_LAYER_TYPES}")
"""
NEW_TYPES = """
    ALLOWED_MLP_LAYER_TYPES = ("sparse", "dense")
    ALLOWED_LAYER_TYPES = ("sliding_attention",) + ALLOWED_MLP_LAYER_TYPES
    class StrictError(Exception): pass
    class Config:
        def __init__(self, num_hidden_layers, layer_types, mlp_layer_types):
            if not all(kind in ALLOWED_MLP_LAYER_TYPES for kind in mlp_layer_types):
                raise StrictError(f"must be in {ALLOWED_MLP_LAYER_TYPES} but got {mlp_layer_types}")
"""
COMPRESSED_TENSORS = """
    class CompressedTensorsLinearMethod:
        def process_weights_after_loading(self, layer):
            layer.weight_scale = "the scale, processed"
"""
METHOD = "vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors.py"
OLD = {  # one file a model, everything missing
    "transformers/configuration_utils.py": OLD_TYPES,
    "transformers/models/deepseek_v4/configuration_deepseek_v4.py": """
        from transformers.configuration_utils import Config
        class DeepseekV4Config(Config): pass
    """,
    METHOD: COMPRESSED_TENSORS,
    "vllm/model_executor/models/deepseek_v4.py": """
        import vllm.model_executor.layers.deepseek_v4_attention
        class DeepseekV4ForCausalLM: pass
    """,
    "vllm/model_executor/models/deepseek_v4_mtp.py": "class DeepSeekV4MTP: pass",
    "vllm/model_executor/layers/deepseek_v4_attention.py": """
        class Attention:
            def forward(self): return self.wo_a.weight, self.wo_a.weight_scale_inv
    """,
}
NEW = {  # a package, nothing missing
    "transformers/configuration_utils.py": NEW_TYPES,
    "vllm/transformers_utils/configs/deepseek_v4.py": """
        class DeepseekV4Config:
            def __init__(self, **kwargs): pass
    """,
    METHOD: COMPRESSED_TENSORS,
    "vllm/models/deepseek_v4/__init__.py": """
        from .nvidia.ops import o_proj
        class DeepseekV4ForCausalLM:
            packed_modules_mapping = {"gate_up_proj": ["w1", "w3"], "fused_wqa_wkv": ["wq_a", "wkv"],
                                      "fused_wkv_wgate": ["wkv", "wgate"], "more": ["a"]}
        class DeepSeekV4MTP(DeepseekV4ForCausalLM): pass
    """,
    "vllm/models/deepseek_v4/nvidia/ops/o_proj.py": """
        def project(wo_a):
            return wo_a.weight_scale if hasattr(wo_a, "weight_scale") else wo_a.weight_scale_inv
    """,
}
PREAMBLE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
from prefixgate_vllm import register
register()
"""
LAYER = """
class Layer: weight_scale = "the scale"
def loaded(prefix):
    layer = Layer()
    layer.prefix = prefix
    CompressedTensorsLinearMethod().process_weights_after_loading(layer)
    return layer.weight_scale, getattr(layer, "weight_scale_inv", None)
"""
IMPORTS = f"from {METHOD.removesuffix('.py').replace('/', '.')} import CompressedTensorsLinearMethod\n" + LAYER


def run(tmp_path: Path, stand_in: dict[str, str], script: str) -> str:
    """What a process prints that loads the plugin, and then what it is told, over the stand-in."""
    for name, text in stand_in.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (tmp_path / "prefixgate_vllm").symlink_to(PLUGIN)
    command = [sys.executable, "-S", "-c", PREAMBLE + script]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_old_vllm_is_given_what_it_lacks(tmp_path: Path) -> None:
    script = """
from vllm.model_executor.models.deepseek_v4 import DeepseekV4ForCausalLM
from vllm.model_executor.models.deepseek_v4_mtp import DeepSeekV4MTP
from transformers.models.deepseek_v4.configuration_deepseek_v4 import DeepseekV4Config
register()
print(DeepseekV4ForCausalLM.packed_modules_mapping == DeepSeekV4MTP.packed_modules_mapping == %r)
DeepseekV4Config(2, ["sliding_attention"], ["hash_moe", "moe"])
print(loaded("model.layers.0.attn.wo_a"), loaded("model.layers.0.attn.wo_b"))
""" % (PACKED,)  # noqa: UP031 - braces are what it is full of
    shown = run(tmp_path, OLD, IMPORTS + script).splitlines()
    assert "True" in shown
    assert shown[-1] == "('the scale, processed', 'the scale, processed') ('the scale, processed', None)"
    added = "packed_modules_mapping lacked gate_up_proj, fused_wqa_wkv, fused_wkv_wgate: added"
    module = "INFO prefixgate: vllm.model_executor"
    assert f"{module}.models.deepseek_v4: DeepseekV4ForCausalLM's {added}" in shown
    assert f"{module}.models.deepseek_v4_mtp: DeepSeekV4MTP's {added}" in shown
    assert any(
        line.startswith(f"{module}.layers.deepseek_v4_attention: it reads the scale of wo_a as") for line in shown
    )
    assert any("its config refused hash_moe and moe layers" in line for line in shown)


def test_a_new_vllm_is_left_alone(tmp_path: Path) -> None:
    script = """
before = CompressedTensorsLinearMethod.process_weights_after_loading
from transformers import configuration_utils
from vllm.models.deepseek_v4 import DeepseekV4ForCausalLM, DeepSeekV4MTP
from vllm.transformers_utils.configs.deepseek_v4 import DeepseekV4Config
print(CompressedTensorsLinearMethod.process_weights_after_loading is before)
print("packed_modules_mapping" not in vars(DeepSeekV4MTP), len(DeepseekV4ForCausalLM.packed_modules_mapping))
print(configuration_utils.ALLOWED_LAYER_TYPES, loaded("model.layers.0.attn.wo_a")[1])
"""
    shown = run(tmp_path, NEW, IMPORTS + script).splitlines()
    assert shown[-3:] == ["True", "True 4", "('sliding_attention', 'sparse', 'dense') None"]
    assert "lacked" not in str(shown)
    assert any("under either name" in line for line in shown)
    assert any("takes hash_moe layers as it is" in line for line in shown)


def test_todays_transformers_check_mlp_types_apart(tmp_path: Path) -> None:
    """vLLM 0.32 has a config of its own, which transformers 5.19 checks against the MLP list alone."""
    own = "from transformers.configuration_utils import Config\nclass DeepseekV4Config(Config): pass"
    script = """
from vllm.transformers_utils.configs.deepseek_v4 import DeepseekV4Config
DeepseekV4Config(2, ["sliding_attention"] * 2, ["hash_moe", "moe"])
"""
    shown = run(tmp_path, NEW | {"vllm/transformers_utils/configs/deepseek_v4.py": own}, script)
    assert "its config refused hash_moe and moe layers; transformers' lists allow them now" in shown


def test_modules_that_were_imported_before_are_mended_too(tmp_path: Path) -> None:
    script = """
import importlib, prefixgate_vllm
import vllm.model_executor.models.deepseek_v4_mtp as early
del early.DeepSeekV4MTP.packed_modules_mapping
register()
print(sorted(early.DeepSeekV4MTP.packed_modules_mapping))
"""
    assert str(sorted(PACKED)) in run(tmp_path, OLD, script)


def test_what_cannot_be_mended_is_said_and_nothing_breaks(tmp_path: Path) -> None:
    odd = {
        "vllm/transformers_utils/configs/deepseek_v4.py": "class DeepseekV4Config:\n def __init__(self, one): pass",
        "vllm/models/deepseek_v4/__init__.py": "from . import attention\nclass DeepSeekV4MTP: __slots__ = ()",
        "vllm/models/deepseek_v4/attention.py": "def f(wo_a): return wo_a.weight_scale_inv",
        METHOD: "",
    }
    script = """
import vllm.transformers_utils.configs.deepseek_v4, vllm.models.deepseek_v4
print("started")
try: import vllm.models.deepseek_v4.nothing
except ModuleNotFoundError as error: print(error)
"""
    shown = run(tmp_path, odd, script)
    assert "WARNING prefixgate: vllm.transformers_utils.configs.deepseek_v4 is left as it is: TypeError: " in shown
    assert "WARNING prefixgate: vllm.models.deepseek_v4.attention is left as it is: AttributeError: " in shown
    assert "started\nNo module named" in shown


def test_without_deepseek_v4_nothing_is_imported(tmp_path: Path) -> None:
    shown = run(tmp_path, OLD, "print([name for name in sys.modules if name.startswith(('vllm', 'transformers'))])")
    assert "load patches wait" in shown
    assert shown.endswith("[]\n")


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("self.wo_a.weight_scale_inv", {"weight_scale_inv"}),
        ("getattr(self.wo_a, 'weight_scale_inv', None)", {"weight_scale_inv"}),
        ("a.wo_a.weight_scale_inv if x else wo_a.weight_scale", {"weight_scale_inv", "weight_scale"}),
        ("hasattr(wo_a, 'weight_scale') or wo_a.weight_scale_inv", {"weight_scale_inv", "weight_scale"}),
        ("self.wo_b.weight_scale_inv, self.wo_a.weight, hasattr(x)", set()),
    ],
)
def test_the_names_that_code_reads(source: str, read: set[str]) -> None:
    assert scales_read(source) == read


def test_the_entry_point_names_a_function_that_is_there() -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    (target,) = project["project"]["entry-points"]["vllm.general_plugins"].values()
    package, _, function = target.partition(":")
    assert project["tool"]["setuptools"] == {"packages": [package], "package-dir": {package: "."}}
    assert callable(getattr(import_module("engines.vllm_plugin"), function))
