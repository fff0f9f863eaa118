"""`prefixgate key new`: a key that opens the gateway which is given the line that it prints."""

import json
import re
import tomllib

import pytest

from gateway.cli import run
from gateway.config import build
from gateway.serving.access import configured_tenancy
from gateway.tenancy.keys import is_hash

POOL = {"name": "p", "engine": "vllm", "replicas": ["http://a:1"]}


@pytest.mark.parametrize("name", ["search-team", 'a "quoted" one\\', "Žluťoučký kůň"])
def test_what_it_prints_is_a_configuration_and_the_key_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "new", "--tenant", name]) == 0
    key, _, lines = capsys.readouterr().out.partition("\n")
    assert re.fullmatch(r"pg-[a-z2-7]{8}-[\w-]{43}", key)
    assert key not in lines
    assert key[:11] + "…" in lines
    tenancy = configured_tenancy(build({"pools": [POOL], **tomllib.loads(lines)}), b"secret")
    assert tenancy is not None
    found = tenancy.identify(key.encode())
    assert found is not None
    assert found.name == name


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    keys = set()
    for _ in range(3):
        assert run(["key", "new", "--tenant", "t", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert set(told) == {"tenant", "key", "id", "hash"}
        assert is_hash(told["hash"])
        assert told["key"].startswith(told["id"] + "-")
        keys.add(told["key"])
    assert len(keys) == 3


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "new", "--tenant", "a\nb"]) == 2
    assert "printable" in capsys.readouterr().err
    for arguments, status in ((["key", "new", "--help"], 0), (["key", "--help"], 0), (["key", "new"], 2), (["key"], 2)):
        with pytest.raises(SystemExit) as ended:
            run(arguments)
        assert ended.value.code == status
    assert "example: prefixgate key new" in capsys.readouterr().out
