"""SIGHUP to a gateway of one process."""

import signal
from pathlib import Path

import httpx
from patience import until
from processes import prefixgate

POOL = '[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "m"\nreplicas = ["http://127.0.0.1:9"]\n'


def policy(admin_url: str) -> str:
    return str(httpx.get(admin_url + "/api/snapshot", timeout=60, trust_env=False).json()["snapshot"]["policy"])


def test_the_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text("[server]\nport = 0\n" + POOL)
    with prefixgate("serve", "--config", str(path)) as (process, (_, admin_url)):
        path.write_text('[server]\nport = 0\n[routing]\npolicy = "prefix"\n' + POOL)
        process.send_signal(signal.SIGHUP)
        until(lambda: policy(admin_url) == "prefix")
        path.write_text("[server]\nprt = 0\n" + POOL)
        process.send_signal(signal.SIGHUP)

        process.send_signal(signal.SIGHUP)
        assert policy(admin_url) == "prefix"
        assert process.stderr is not None
        while "the configuration stays as it is: " not in (line := process.stderr.readline()):
            assert line, "it did not say so"
        assert "unknown key `prt` in [server]; did you mean `port`?" in line
        assert process.poll() is None


def test_without_a_file_it_ends_the_process() -> None:
    arguments = ("serve", "--vllm", "http://127.0.0.1:9", "--port", "0", "--admin-port", "0")
    with prefixgate(*arguments) as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == -signal.SIGHUP
