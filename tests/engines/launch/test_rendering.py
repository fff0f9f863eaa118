"""The commands that start engines: the published ones, and every flag that measuring needs."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from engines.launch.command import LaunchCommand, grouped
from engines.launch.confidential import guest_evidence
from engines.launch.drop_in import command_in, drop_in
from engines.launch.external import ExternalLauncher
from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState
from engines.launch.workload import Place, workload_patch
from engines.registry import dialect
from engines.reports import PrefillSettings

W4A8 = LaunchSpec(
    name="vllm-w4a8-0",
    dialect="vllm",
    model="./dsv4-w4a8",
    host="127.0.0.1",
    port=8000,
    served_name="dsv4",
    prefill=PrefillSettings(8192, 4096, 32768, mixed_chunk=True),
    tensor_parallel=2,
    gpus=(0, 1),
    event_ports=(9000, 10000),
    flags=("--trust-remote-code",),
    confidential=True,
)
FP4 = dataclasses.replace(
    W4A8,
    name="sglang-fp4-0",
    dialect="sglang",
    model="deepseek-ai/DeepSeek-V4-Flash",
    port=30000,
    flags=("--trust-remote-code", "--moe-runner-backend", "marlin"),
    confidential=False,
)
EVENTS = '"publisher":"zmq","endpoint":"tcp://*:9000","replay_endpoint":"tcp://*:10000"'


def command(spec: LaunchSpec, **changes: object) -> LaunchCommand:
    changed = dataclasses.replace(spec, **changes)  # type: ignore[arg-type]
    return dialect(spec.dialect).launch_command(changed)


def test_vllm() -> None:
    """The published W4A8 command, in a confidential guest, with what we need."""
    assert command(W4A8).shell_lines().split(" \\\n  ") == [
        "CUDA_VISIBLE_DEVICES=0,1 vllm serve ./dsv4-w4a8",
        "--served-model-name dsv4",
        "--host 127.0.0.1",
        "--port 8000",
        "--tensor-parallel-size 2",
        "--disable-custom-all-reduce",
        "--max-num-batched-tokens 8192",
        "--long-prefill-token-threshold 4096",
        "--enable-prompt-tokens-details",
        "--enable-per-request-metrics",
        f"--kv-events-config '{{\"enable_kv_cache_events\":true,{EVENTS}}}'",
        "--trust-remote-code",
    ]


def test_sglang() -> None:
    assert command(FP4).shell_lines().split(" \\\n  ") == [
        "CUDA_VISIBLE_DEVICES=0,1 SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0 python3 -m sglang.launch_server",
        "--model-path deepseek-ai/DeepSeek-V4-Flash",
        "--served-model-name dsv4",
        "--host 127.0.0.1",
        "--port 30000",
        "--tp-size 2",
        "--chunked-prefill-size 8192",
        "--max-prefill-tokens 32768",
        "--enable-mixed-chunk",
        "--enable-cache-report",
        "--enable-metrics",
        f"--kv-events-config '{{{EVENTS}}}'",
        "--trust-remote-code",
        "--moe-runner-backend marlin",
    ]


@pytest.mark.parametrize("spec", [W4A8, FP4], ids=["vllm", "sglang"])
def test_a_shell_reads_what_is_run(spec: LaunchSpec) -> None:
    written = command(spec, model="a model's path", env={"A": "b c"})
    for shell in (written.shell(), written.shell_lines().replace("\\\n", "")):
        words = shlex.split(shell)
        assert tuple(words[len(written.env) :]) == written.words
        assert dict(word.split("=", 1) for word in words[: len(written.env)]) == written.env
    assert written.words == tuple(word for group in grouped(written.words) for word in group)


def test_own_words_win() -> None:
    written = command(
        W4A8,
        program=("/opt/vllm", "serve"),
        flags=("--served-model-name", "other", "--kv-events-config={}", "-tp", "4"),
        without=("--enable-per-request-metrics",),
        env={"CUDA_VISIBLE_DEVICES": "7", "VLLM_USE_V1": "1"},
    )
    assert written.program == ("/opt/vllm", "serve")
    assert written.env == {"CUDA_VISIBLE_DEVICES": "7", "VLLM_USE_V1": "1"}
    assert written.words.count("--served-model-name") == 1
    assert written.words[-5:] == ("--served-model-name", "other", "--kv-events-config={}", "-tp", "4")
    assert not {"--kv-events-config", "--enable-per-request-metrics"} & set(written.words)
    assert "--enable-prompt-tokens-details" in written.words


@pytest.mark.parametrize("spec", [W4A8, FP4], ids=["vllm", "sglang"])
def test_events_are_published_where_they_are_wished(spec: LaunchSpec) -> None:
    assert "--kv-events-config" not in command(spec, event_ports=None).words
    words = command(spec, event_topic="kv@0").words
    said = json.loads(words[words.index("--kv-events-config") + 1])
    assert said["topic"] == "kv@0"
    assert said["endpoint"] == "tcp://*:9000"


def test_nothing_is_said_that_is_not_known() -> None:
    bare = LaunchSpec(name="r", dialect="vllm", model="m", host="h", port=1, event_ports=None)
    assert command(bare).words == (
        *("vllm", "serve", "m", "--host", "h", "--port", "1", "--tensor-parallel-size", "1"),
        *("--enable-prompt-tokens-details", "--enable-per-request-metrics"),
    )
    assert command(bare).env == {}


@pytest.mark.parametrize(
    ("place", "content", "evidence"),
    [
        ("dev/tdx_guest", "", "/dev/tdx_guest"),
        ("dev/sev-guest", "", "/dev/sev-guest"),
        ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu tdx_guest sse\n", "processor flag tdx_guest"),
        ("proc/cpuinfo", "flags\t\t: fpu sev sev_es sev_snp sse\n", None),  # of an AMD host
        ("etc/hostname", "h", None),
    ],
)
def test_confidential_guests_are_found_out(tmp_path: Path, place: str, content: str, evidence: str | None) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(content)
    assert guest_evidence(tmp_path) == evidence


def test_a_drop_in_says_the_command_as_systemd_reads_it() -> None:
    spec = dataclasses.replace(W4A8, model='a "50%" $HOME\\x', directory="/srv/100%")
    text = drop_in(spec)
    assert command_in(text) == command(spec).words
    lines = text.splitlines()
    assert lines[1:5] == [
        "[Service]",
        "WorkingDirectory=/srv/100%%",
        'Environment="CUDA_VISIBLE_DEVICES=0,1"',
        "ExecStart=",
    ]
    assert lines[5].startswith(
        'ExecStart="/usr/bin/env" "vllm" "serve" "a \\"50%%\\" $$HOME\\\\x" "--served-model-name"'
    )
    absolute = dataclasses.replace(spec, program=("/opt/vllm", "serve"))
    assert 'ExecStart="/opt/vllm" "serve"' in drop_in(absolute)
    assert command_in(drop_in(absolute)) == command(absolute).words
    assert command_in("[Service]\n") == ()


def test_a_patch_changes_one_pod_at_a_time() -> None:
    spec = dataclasses.replace(W4A8, gpus=(), env={"A": "b"}, directory="/srv")
    patch = workload_patch(Place("StatefulSet", "vllm", "vllm-0", "engine"), spec, "now")["spec"]
    assert patch["updateStrategy"] == {"type": "OnDelete", "rollingUpdate": None}
    [container] = patch["template"]["spec"]["containers"]
    assert container == {
        "name": "engine",
        "command": ["vllm", "serve"],
        "args": list(command(spec).arguments),
        "env": [{"name": "A", "value": "b"}],
        "workingDir": "/srv",
    }
    patch = workload_patch(Place("Deployment", "vllm-0", "", "engine"), spec, "now")["spec"]
    assert patch["strategy"]["type"] == "Recreate"
    assert patch["template"]["metadata"]["annotations"] == {"prefixgate/launched-at": "now"}
    assert patch["template"]["spec"]["containers"] == [container]


async def test_who_only_observes_says_the_command() -> None:
    launcher = ExternalLauncher()
    assert not launcher.can_restart
    for told, verb in ((launcher.start, "start"), (launcher.restart, "restart")):
        with pytest.raises(LaunchError) as caught:
            await told(W4A8)
        assert f"{verb} it where it runs, as: {command(W4A8).shell()}" in str(caught.value)
    with pytest.raises(LaunchError, match="stop it where it runs"):
        await launcher.stop("r")
    assert (await launcher.view("r")).state is ProcessState.UNKNOWN
    await launcher.close()
