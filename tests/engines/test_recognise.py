"""An engine of unknown kind is recognised by its own pages, as recorded from real ones."""

from pathlib import Path

import pytest

from engines.registry import description_paths, recognise

FIXTURES = Path(__file__).parent.parent / "fixtures"
FILES = {"/metrics": "metrics.txt", "/version": "version.json", "/server_info": "server_info.completed.json",
         "/v1/loads": "v1_loads.json"}  # fmt: skip


def pages(recorded: str) -> dict[str, bytes]:
    found = {path: FIXTURES / recorded / name for path, name in FILES.items() if path in description_paths()}
    return {path: file.read_bytes() for path, file in found.items() if file.exists()}


@pytest.mark.parametrize(
    ("recorded", "name"), [("vllm-0.25.0", "vllm"), ("vllm-0.32.0", "vllm"), ("sglang-0.5.16", "sglang")]
)
def test_recorded_engines(recorded: str, name: str) -> None:
    read = pages(recorded)
    assert read
    dialect = recognise(read)
    assert dialect is not None
    assert dialect.name == name


@pytest.mark.parametrize("read", [{}, {"/version": b"<html>"}, {"/metrics": b"up 1\n", "/server_info": b"[]"}])
def test_anything_else_is_nobody(read: dict[str, bytes]) -> None:
    assert recognise(read) is None
