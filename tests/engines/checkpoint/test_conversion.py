"""W4A16 to W4A8 and back: the named places and no others, byte for byte; and every refusal with its reason."""

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from checkpoints import ATTENTION, CONFIG, EXPERTS, config_text
from hypothesis import given
from hypothesis import strategies as st

from engines.checkpoint.conversion import PROVENANCE, converted, differences, reversed_to_base
from engines.checkpoint.refusal import CheckpointError

GROUPS = ("quantization_config", "config_groups")
CHANGED = "quantization_config.config_groups.group_1.input_activations"


def convert(base: bytes, tensor_parallel: int = 2) -> bytes:
    return converted(base, tensor_parallel=tensor_parallel, tool="a test").data


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    config = copy.deepcopy(dict(CONFIG))
    change(config)
    return config_text(config)


def experts(**values: object) -> bytes:
    return changed(lambda config: config["quantization_config"]["config_groups"]["group_1"].update(values))


def weights(**values: object) -> bytes:
    return experts(weights=EXPERTS["weights"] | values)


def test_the_named_places_change_and_no_others() -> None:
    base = config_text()
    made = converted(base, tensor_parallel=2, tool="a test")
    assert made.changed == (CHANGED, PROVENANCE)
    new = json.loads(made.data)
    provenance = new.pop(PROVENANCE)
    assert provenance["source_sha256"] == hashlib.sha256(base).hexdigest()
    assert provenance["tool"] == "a test"
    group = new["quantization_config"]["config_groups"]["group_1"]
    assert group.pop("input_activations") == {
        "num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True
    }  # fmt: skip
    group["input_activations"] = None
    assert new == CONFIG
    old_lines = base.decode().splitlines()
    gone = [line for line in old_lines if line not in made.data.decode().splitlines()]
    assert [line.strip() for line in gone] == ['"input_activations": null,', '"torch_dtype": "bfloat16"']
    assert convert(base) == made.data  # the same again: no date, no chance


SPELLINGS = {
    "as transformers writes it": lambda config: json.dumps(config, indent=2) + "\n",
    "sorted, four spaces": lambda config: json.dumps(config, indent=4, sort_keys=True),
    "tabs": lambda config: json.dumps(config, indent="\t"),
    "one line": json.dumps,
    "no spaces": lambda config: json.dumps(config, separators=(",", ":")),
    "Windows lines": lambda config: json.dumps(config, indent=2).replace("\n", "\r\n"),
    "raw Unicode": lambda config: json.dumps(config, indent=2, ensure_ascii=False),
    "odd numbers": lambda config: json.dumps(config, indent=2).replace("1e-06", "1.0E-6").replace("10.0", "1.00e1"),
    "broken lines": lambda config: "\n\n" + json.dumps(config, indent=1).replace(": ", " :\n   ") + "  \n",
    "no indentation": lambda config: json.dumps(config, indent=0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_reversing_gives_the_bases_bytes_back_however_it_is_spelled(spelling: str) -> None:
    base = SPELLINGS[spelling](CONFIG).encode()
    new = convert(base)
    assert json.loads(new)["quantization_config"]["config_groups"]["group_1"]["input_activations"]["num_bits"] == 8
    assert reversed_to_base(new) == base
    assert differences(base, new) == []
    assert (b"\r" in new) == (b"\r" in base)
    assert new.count(b"\n") > 20 or b"\n" not in new


@pytest.mark.parametrize(
    "base",
    [
        changed(lambda config: config["quantization_config"]["config_groups"]["group_1"].pop("input_activations")),
        changed(lambda config: config.update(text_config={"quantization_config": config.pop("quantization_config")})),
        changed(lambda config: config.update(compression_config=config.pop("quantization_config"))),
    ],
    ids=["no input_activations", "in text_config", "the old name"],
)
def test_other_places_for_the_same(base: bytes) -> None:
    new = convert(base)
    assert b'"num_bits": 8,\n' in new
    assert reversed_to_base(new) == base
    assert differences(base, new) == []


def test_names_without_model_and_ignored_layers_are_understood() -> None:
    """As the base's predecessor is written: what its targets match beside experts is ignored by the bare names."""

    def spell(config: dict[str, Any]) -> None:
        quantization = config["quantization_config"]
        shared = [f"layers.{layer}.ffn.shared_experts.{name}" for layer in range(3) for name in ("w1", "w2", "w3")]
        quantization["ignore"] = ["head", *shared]
        quantization["config_groups"]["group_1"]["targets"] = [
            r"re:^layers\.\d+\.ffn\..*experts\..*(w1|w2|w3)$",
            r"re:.*ffn.*gate_up_proj$",
        ]

    assert converted(changed(spell), tensor_parallel=2, tool="a test").changed == (CHANGED, PROVENANCE)


def test_two_expert_groups_are_both_converted() -> None:
    def split(config: dict[str, Any]) -> None:
        groups = config["quantization_config"]["config_groups"]
        for number, layers in enumerate(("[0-1]", "2"), start=1):
            groups[f"group_{number}"] = EXPERTS | {"targets": [rf"re:model\.layers\.{layers}\..*experts\.\d+\.w[123]$"]}

    base = changed(split)
    made = converted(base, tensor_parallel=2, tool="a test")
    assert made.changed == (CHANGED, CHANGED.replace("group_1", "group_2"), PROVENANCE)
    assert reversed_to_base(made.data) == base


REFUSALS = {
    "group size": (weights(group_size=64), "weights.group_size is 64 and must be 128"),
    "asymmetric": (weights(symmetric=False), "weights.symmetric is false and must be true"),
    "eight bits": (weights(num_bits=8), "weights.num_bits is 8 and must be 4"),
    "FP4": (weights(type="float"), "weights.type is 'float' and must be 'int'"),
    "per channel": (weights(strategy="channel"), "weights.strategy is 'channel' and must be 'group'"),
    "dynamic weights": (weights(dynamic=True), "weights.dynamic is true and must be false"),
    "activation order": (weights(actorder="group"), "weights.actorder is 'group'"),
    "not packed": (experts(format="int-quantized"), "format is 'int-quantized' and must be 'pack-quantized'"),
    "no weights": (experts(weights=None), "weights.num_bits is None and must be 4"),
    "other activations": (experts(input_activations={"num_bits": 8, "type": "int"}), "input_activations is not null"),
    "several reasons": (weights(group_size=64, symmetric=False), "must be 128; weights.symmetric is false"),
    "hidden size": (changed(lambda c: c.update(hidden_size=4000)), "hidden_size is 4000 and must be a multiple of 256"),
    "intermediate": (changed(lambda c: c.update(moe_intermediate_size=768)), "gets 384 of it, which must be a multip"),
    "no sizes": (changed(lambda c: c.pop("hidden_size")), "does not say hidden_size and moe_intermediate_size"),
    "no experts": (experts(targets=["re:.*nothing"]), "no config group targets routed experts"),
    "ignored experts": (
        changed(lambda c: c["quantization_config"]["ignore"].append("re:.*experts")),
        "no config group targets routed experts",
    ),
    "all Linear": (experts(targets=["Linear"]), "group_1 targets"),
    "dense ones too": (experts(targets=[r"re:.*(experts\.\d+\.w|mlp\.).*"]), "as well as routed experts"),
    "some projections": (experts(targets=[r"re:.*experts\.\d+\.w1$"]), "some projections of routed experts and not"),
    "two groups": (
        changed(lambda c: c["quantization_config"]["config_groups"].update(group_2=EXPERTS)),
        "group_1 and group_2 both target model.layers.0.ffn.experts.0.w1",
    ),
    "bad pattern": (experts(targets=["re:(experts"]), "'re:(experts' is no regular expression"),
    "another tool": (
        changed(lambda c: c["quantization_config"].update(quant_method="fp8")),
        "it is quantised by 'fp8'",
    ),
    "not quantised": (changed(lambda c: c.pop("quantization_config")), "has no quantization_config"),
    "converted already": (convert(config_text()), "it is already converted"),
    "W4A8 already": (
        experts(input_activations=json.loads(convert(config_text()))[GROUPS[0]][GROUPS[1]]["group_1"]["input_activations"]),
        "it is W4A8 already",
    ),
    "cut off": (config_text()[:-1], "is not JSON"),
    "a list": (b"[]", "is not a JSON object"),
    "a key twice": (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
    "not text": (b"\xff\xfe", "is not UTF-8"),
    "endless": (b"[" * 200_000, "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_run_is_refused_with_the_reason(name: str) -> None:
    base, reason = REFUSALS[name]
    with pytest.raises(CheckpointError) as refused:
        convert(base)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("tensor_parallel", "fits"), [(1, True), (4, True), (8, True), (16, False), (3, False)])
def test_each_gpus_slice_must_fit(tensor_parallel: int, fits: bool) -> None:
    if fits:
        assert convert(config_text(), tensor_parallel) == convert(config_text())
    else:
        with pytest.raises(CheckpointError, match="moe_intermediate_size is 2048"):
            convert(config_text(), tensor_parallel)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"hidden_size": 4096', b'"hidden_size": 4097', "by its SHA-256"),
        (b'"hidden_size": 4096', b'"hidden_size":  4096', "by its SHA-256"),
        (b"_w4a8_conversion", b"_some_conversion", "was not converted here"),
        (b"source_sha256", b"source_sha1", "holds no source_sha256"),
        (b'"group_1": null\n', b'"group_9": null\n', "names a config group that is not there"),
    ],
)
def test_a_config_that_was_changed_is_not_reversed(old: bytes, new: bytes, reason: str) -> None:
    data = convert(config_text())
    assert old in data
    with pytest.raises(CheckpointError, match=reason):
        reversed_to_base(data.replace(old, new))


def test_differences_name_what_else_was_changed() -> None:
    base, new = config_text(), convert(config_text())
    assert "config.json is the base's own" in differences(base, base)[0]
    other = new.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05').replace(
        b'"symmetric": true', b'"symmetric": 1'
    )
    found = differences(base, other)
    assert len(found) >= 2
    assert "rms_norm_eps" in found[0]
    assert any("quantization_config.config_groups.group_0.weights.symmetric" in one for one in found)
    weaker = json.loads(new)
    weaker[GROUPS[0]][GROUPS[1]]["group_1"]["input_activations"]["strategy"] = "tensor"
    assert "are not FP8, dynamic, per token" in differences(base, json.dumps(weaker).encode())[0]
    assert "spells it otherwise" in differences(base, new.replace(b"4096", b" 4096"))[0]
    assert "made from another config" in differences(base + b"\n", new)[0]


def test_a_conversion_by_hand_is_judged_by_its_values() -> None:
    """As the published recipe made it: json.load, change, json.dump, with a note of its own."""
    config = copy.deepcopy(dict(CONFIG))
    config[GROUPS[0]][GROUPS[1]]["group_1"]["input_activations"] = {
        "num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True
    }  # fmt: skip
    config[PROVENANCE] = "experts input_activations: null -> FP8 dynamic-token"
    assert differences(config_text(), json.dumps(config).encode()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    *(("hidden_size",), ("num_hidden_layers",), ("quantization_config",), ("text_config",), GROUPS),
    *((*GROUPS, "group_1", key) for key in EXPERTS),
    *((*GROUPS, "group_0", key) for key in ATTENTION),
    *((*GROUPS, "group_1", "weights", key) for key in EXPERTS["weights"]),
    ("quantization_config", "ignore"),
    ("quantization_config", "format"),
]


@given(st.sampled_from(PLACES), JSON, st.sampled_from([None, 1, 2, "\t"]))
def test_any_config_is_converted_reversibly_or_refused(place: tuple[str, ...], value: Any, indent: Any) -> None:
    config = copy.deepcopy(dict(CONFIG))
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    base = json.dumps(config, indent=indent).encode()
    try:
        new = convert(base)
    except CheckpointError:
        return
    assert reversed_to_base(new) == base
    assert differences(base, new) == []
