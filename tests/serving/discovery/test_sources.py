"""What each source says of where replicas are."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Request, fake_engine, raw, whole
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.discovery import KubernetesConfig
from gateway.serving.discovery.dns import DnsSource
from gateway.serving.discovery.file import FileSource, targets_in
from gateway.serving.discovery.kubernetes import KubernetesSource
from gateway.serving.discovery.source import DiscoveryError, url_of

# ── DNS ──────────────────────────────────────────────────────────────────────────────────────────


async def test_each_address_of_a_name_is_a_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async def records(*_: object, **__: object) -> list[object]:
        addresses = [("10.0.0.1", 8000), ("10.0.0.2", 8000), ("10.0.0.1", 8000), ("fd00::1", 8000, 0, 0)]
        return [(2, 1, 6, "", address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", records, raising=False)
    found = await DnsSource("engine.svc:8000", "https").targets()
    assert found == {"https://10.0.0.1:8000", "https://10.0.0.2:8000", "https://[fd00::1]:8000"}


async def test_the_real_resolver_is_asked() -> None:
    assert await DnsSource("127.0.0.1:8000", "http").targets() == {"http://127.0.0.1:8000"}
    assert await DnsSource("[::1]:8000", "http").targets() == {"http://[::1]:8000"}
    with pytest.raises(DiscoveryError, match=r"nobody\.invalid cannot be resolved: "):
        await DnsSource("nobody.invalid:8000", "http").targets()


# ── file ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_file_is_read_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    source = FileSource(path, "http")
    with pytest.raises(DiscoveryError, match="cannot be read: No such file"):
        await source.targets()
    path.write_text('[{"targets": ["10.0.0.1:8000", "https://b:1/"], "labels": {"a": "b"}}, {"targets": ["c:2"]}]')
    assert await source.targets() == {"http://10.0.0.1:8000", "https://b:1", "http://c:2"}
    path.write_text('{"targets": ["d:4"]}\n\n"e:5"\n')
    os.utime(path, ns=(1, 1))
    assert await source.targets() == {"http://d:4", "http://e:5"}
    path.write_text("[{]")
    for _ in range(2):  # it is read again, as it was not understood
        with pytest.raises(DiscoveryError, match="is not a list of targets: "):
            await source.targets()
    path.write_text("")
    assert await source.targets() == set()


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n\r"), min_size=1)))
def test_both_forms_of_a_file_say_the_same(targets: list[str]) -> None:
    whole_file = json.dumps([{"targets": targets}]).encode()
    lines = b"\n".join(json.dumps(target).encode() for target in targets)
    assert targets_in(whole_file) == targets_in(lines) == targets


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────


def slices(*endpoints: dict[str, object], ports: object = None) -> bytes:
    listed = ports if ports is not None else [{"name": "metrics", "port": 9}, {"name": "http", "port": 8000}]
    items = [{"addressType": "IPv4", "endpoints": list(endpoints), "ports": listed}, {"endpoints": None}]
    return json.dumps({"kind": "EndpointSliceList", "items": items}).encode()


def endpoint(address: str, **conditions: bool | None) -> dict[str, object]:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"name": "pod"}}


@asynccontextmanager
async def api_server(tmp_path: Path, answer: bytes) -> AsyncIterator[tuple[FakeEngine, KubernetesConfig]]:
    """An API server that lists these slices; a scripted engine answers for it."""
    token = tmp_path / "token"
    token.write_text("secret-1\n")
    async with fake_engine(whole(answer)) as server:
        yield server, KubernetesConfig("engine", "models", "http", server.url, str(token))


def ask_of(request: Request) -> tuple[str, str]:
    return request.target, request.headers["authorization"]


async def test_ready_endpoints_of_the_service_are_replicas(tmp_path: Path) -> None:
    answer = slices(
        endpoint("10.0.0.1", ready=True),
        endpoint("10.0.0.2", ready=None),
        endpoint("10.0.0.3", ready=False, serving=True, terminating=True),
        {"addresses": ["fd00::1"]},
    )
    async with api_server(tmp_path, answer) as (server, config):
        source = KubernetesSource(config, "http")
        assert await source.targets() == {"http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000"}
        (tmp_path / "token").write_text("secret-2")  # tokens are renewed
        await source.targets()
        await source.close()
    path = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices"
    query = "labelSelector=kubernetes.io%2Fservice-name%3Dengine&resourceVersion=0"
    assert [ask_of(request) for request in server.requests] == [
        (f"{path}?{query}", "Bearer secret-1"),
        (f"{path}?{query}", "Bearer secret-2"),
    ]


@pytest.mark.parametrize(
    ("wished", "expected"), [(None, {"http://10.0.0.1:9"}), (7000, {"http://10.0.0.1:7000"}), ("grpc", set())]
)
async def test_the_port_is_by_name_by_number_or_the_first(
    tmp_path: Path, wished: str | int | None, expected: set[str]
) -> None:
    async with api_server(tmp_path, slices(endpoint("10.0.0.1"))) as (_, config):
        named = KubernetesConfig("engine", "models", wished, config.api, config.token_file)
        source = KubernetesSource(named, "http")
        assert await source.targets() == expected
        await source.close()


async def test_what_goes_wrong_there_is_said_without_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api_server(tmp_path, b"{}") as (server, config):
        source = KubernetesSource(config, "http")
        with pytest.raises(DiscoveryError, match="answer cannot be read: "):
            await source.targets()
        server.answer = whole(b"{}", 403)
        with pytest.raises(DiscoveryError, match=r"answered 403 \(may the service account list endpointslices\?\)"):
            await source.targets()
        server.answer = raw(b"")
        with pytest.raises(DiscoveryError, match="does not answer: ") as caught:
            await source.targets()
        assert "secret" not in str(caught.value)
        await source.close()
    with pytest.raises(DiscoveryError, match="service account cannot be read: "):
        await KubernetesSource(KubernetesConfig("engine", api="http://x", token_file="/nowhere"), "http").targets()
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(DiscoveryError, match="this is no Kubernetes pod"):
        await KubernetesSource(KubernetesConfig("engine"), "http").targets()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(DiscoveryError, match="service account cannot be read: "):  # there is no CA here
        await KubernetesSource(KubernetesConfig("engine"), "http").targets()


def test_addresses_make_urls() -> None:
    assert url_of("http", "fd00:0::1", 80) == "http://[fd00::1]:80"
    assert url_of("https", "engine.svc", 80) == "https://engine.svc:80"
