"""`prefixgate bench` on real vLLM: the ladder on two servers, the sweep on one that prefixgate launches."""

import json
from pathlib import Path

import httpx
import pytest
from real_vllm import RealVllm, free_port

from gateway.cli import run

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

ISLS = {"512": 512, "1k": 1024, "4k": 4096}


def test_the_ladder_of_two_equal_servers(vllms: list[RealVllm], capsys: pytest.CaptureFixture[str]) -> None:
    targets = [word for name, server in zip("ab", vllms, strict=True) for word in ("--target", f"{name}={server.url}")]
    arguments = ["bench", "ladder", *targets, "--isl", ",".join(ISLS), "--cached", "0,0.5", "--repeats", "5"]
    assert run([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with capsys.disabled():
        for one in report["rungs"]:
            print(
                f"\n{one['target']} {one['isl']:>5} {one['cached']:.0%} cached: TTFT {one['ttft_ms']:.1f} ms, its own "
                f"word {one['prefill_ms']:.1f} ms, {one['tokens_per_s_per_gpu']:,.0f} tok/s", end=""
            )  # fmt: skip
        print(f"\n{report['comparisons']}\n{report['warnings']}")
    assert [row["simulated"] for row in report["rows"]] == ["", ""]
    assert [row["engine"] for row in report["rows"]] == ["vllm", "vllm"]
    assert {(one["isl"], one["cached"]) for one in report["rungs"]} == {(n, s) for n in ISLS.values() for s in (0, 0.5)}
    for one in report["rungs"]:
        assert one["prompt_tokens"] == one["isl"]
        assert one["cached_tokens"] == one["isl"] * one["cached"]
        assert one["left_out"] == 0
        assert 0 < one["prefill_ms"] < one["ttft_ms"] + 5
    times = {(one["target"], one["isl"], one["cached"]): one["ttft_ms"] for one in report["rungs"]}
    assert times["a", 4096, 0] > times["a", 4096, 0.5]
    assert times["a", 4096, 0] > times["a", 512, 0]


def test_the_sweep_of_a_launched_replica(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    program = [str(folder / "bin/vllm"), "serve"]
    flags = [
        "--load-format",
        "dummy",
        "--enforce-eager",
        "--max-model-len",
        "16384",
        "--num-gpu-blocks-override",
        "320",
    ]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    config = tmp_path / "sweep.toml"
    config.write_text(
        f'[server]\nport = 0\n[[pools]]\nname = "real"\nengine = "vllm"\nmodel = "tiny"\n'
        f'replicas = ["http://127.0.0.1:{port}"]\n'
        '[pools.prefill]\nchunk_tokens = 2048\n[pools.events]\nmode = "off"\n'
        f'[pools.launch]\nkind = "local"\nmodel_path = "./tiny"\ngpus = []\ndirectory = {json.dumps(str(folder))}\n'
        f"program = {json.dumps(program)}\nflags = {json.dumps(flags)}\nrun_dir = {json.dumps(str(tmp_path / 'run'))}\n"
        "[pools.launch.env]\n" + "".join(f'{name} = "{value}"\n' for name, value in env.items())
    )
    sizes = ["--chunks", "2048,4096", "--isl", "1k,4k", "--ramp-isl", "4k", "--repeats", "4", "--start-s", "900"]
    assert run(["bench", "sweep", "--config", str(config), *sizes, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with capsys.disabled():
        for one in report["chunks"]:
            print(f"\n{one}", end="")
        for one in report["ladder"]["rungs"]:
            print(f"\n{one['target']} {one['isl']:>5}: TTFT {one['ttft_ms']:.1f} ms", end="")
        print(f"\n{report['ladder']['comparisons']}\n{report['ladder']['warnings']}")
    assert [(one["chunk_tokens"], one["chunk_actual"]) for one in report["chunks"]] == [(2048, 2048), (4096, 4096)]
    assert report["baseline"] == "chunk 2048"
    for one in report["chunks"]:
        assert one["kv_capacity_tokens"] == 320 * 128
        assert 1 <= one["concurrency"] <= 320 * 128 // 4096
    remembered = json.loads((tmp_path / "run" / "real-0.json").read_text())
    assert remembered["applied"]["prefill"]["chunk_tokens"] == 2048
    with pytest.raises(httpx.ConnectError):  # what the sweep started it has ended
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
