"""TLS on both sides: HTTPS for clients and operators, HTTPS to engines with certificates that are looked at."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from fake_engine import DONE, FakeEngine, fake_engine, frame, stream, usage_frame
from gateways import at_rest, chat, chat_bytes, gateway_of, gateway_over, openai_error, post, until
from raw_client import post_head

from gateway.config import ConfigError

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """PEM files by name; `locked` is a key that needs a password."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca")
    STRANGER.cert_pem.write_to_path(tmp_path / "stranger")
    for name, authority in (("server", AUTHORITY), ("client", AUTHORITY), ("other", STRANGER)):
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(tmp_path / f"{name}.cert", append=True)
    (tmp_path / "nonsense").write_text("nonsense")
    return {path.name: str(path) for path in tmp_path.iterdir()}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


# ── clients ──────────────────────────────────────────────────────────────────────────────────────


async def test_both_ports_speak_https_and_nothing_else(files: dict[str, str]) -> None:
    server = {"tls_cert": files["server.cert"], "tls_key": files["server.key"]}
    answer = stream(frame("a"), frame("b"), usage_frame(4, 0), DONE)
    async with fake_engine(answer) as engine, gateway_over(engine.url, server=server) as run:
        assert (run.url[:8], run.admin_url[:8]) == ("https://", "https://")
        async with httpx.AsyncClient(verify=trusting(), trust_env=False) as http:
            for _ in range(3):
                answered = await http.post(run.url + "/v1/chat/completions", json=chat(stream=True))
                assert (answered.status_code, answered.text.count("data: ")) == (200, 3)
            assert (await http.get(run.admin_url + "/api/snapshot")).status_code == 200
            big = await http.post(run.url + "/v1/chat/completions", json=chat("x" * 3_000_000, stream=True))
            assert big.status_code == 200
            refused = await http.post(run.url + "/v1/chat/completions", content=b"{")
            assert openai_error(refused)["message"]
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(run.url + "/health")
            with pytest.raises(httpx.TransportError):
                await http.get(run.url.replace("https", "http") + "/health")
        await until(lambda: at_rest(run))


async def test_a_client_that_leaves_over_tls_is_noticed(files: dict[str, str]) -> None:
    server = {"tls_cert": files["server.cert"], "tls_key": files["server.key"]}
    silent = stream(frame("a"), *(frame("b" * 10_000) for _ in range(200)))
    async with fake_engine(silent) as engine, gateway_over(engine.url, server=server) as run:
        port = int(run.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname="127.0.0.1")
        body = chat_bytes(stream=True)
        writer.write(post_head(len(body)) + body)
        assert (await reader.read(12)).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        await until(lambda: at_rest(run))


@pytest.mark.parametrize(
    ("cert", "key"),
    [("missing", "server.key"), ("nonsense", "server.key"), ("server.cert", "nonsense"), ("server.cert", "other.key")],
)
async def test_files_that_are_of_no_use_stop_the_start(cert: str, key: str, files: dict[str, str]) -> None:
    server = {"tls_cert": files.get(cert, cert), "tls_key": files.get(key, key)}
    async with fake_engine() as engine:
        with pytest.raises(ConfigError, match=r"\[server\] tls_cert, tls_key: .* cannot be used"):
            async with gateway_over(engine.url, server=server):
                pass


# ── engines ──────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def https_engine(files: dict[str, str], *, asks: bool = False) -> AsyncIterator[FakeEngine]:
    """A fake engine behind TLS; one that asks wants a certificate of the authority's from whoever calls."""
    async with fake_engine() as engine:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files["server.cert"], files["server.key"])
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(files["ca"])
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=context, limit=64 << 20)
        engine.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield engine
        server.close()


def pool(engine: FakeEngine, **tls: Any) -> dict[str, Any]:
    return {"name": "p", "engine": "vllm", "model": "m", "replicas": [engine.url], **tls}


async def asked(pool: dict[str, Any]) -> httpx.Response:
    async with gateway_of([pool], polling={"interval_s": 60}) as run:
        return await post(run, chat())


async def test_an_engine_is_trusted_by_its_authority(files: dict[str, str]) -> None:
    async with https_engine(files) as engine:
        assert (await asked(pool(engine, tls_ca=files["ca"]))).status_code == 200
        assert engine.polls
        engine.polls.clear()
        engine.requests.clear()
        for wrong in ({}, {"tls_ca": files["stranger"]}):
            refused = await asked(pool(engine, **wrong))
            assert refused.status_code == 503
            assert "certificate" in openai_error(refused)["message"].lower()
        assert not engine.polls + engine.requests
        assert (await asked(pool(engine, tls_verify=False))).status_code == 200


async def test_a_certificate_for_another_name_is_refused(files: dict[str, str]) -> None:
    async with https_engine(files) as engine:
        url = engine.url.replace("127.0.0.1", "127.0.0.2")  # the same socket would answer there, were it bound to it
        assert (await asked(pool(engine, tls_ca=files["ca"]) | {"replicas": [url]})).status_code == 503


async def test_we_show_our_certificate_to_engines_that_ask(files: dict[str, str]) -> None:
    ours = {"tls_client_cert": files["client.cert"], "tls_client_key": files["client.key"]}
    others = {"tls_client_cert": files["other.cert"], "tls_client_key": files["other.key"]}
    async with https_engine(files, asks=True) as engine:
        assert (await asked(pool(engine, tls_ca=files["ca"], **ours))).status_code == 200
        for wrong in ({}, others):
            assert (await asked(pool(engine, tls_ca=files["ca"], **wrong))).status_code == 503


async def test_pools_keep_their_contexts_apart(files: dict[str, str]) -> None:
    async with https_engine(files) as one, https_engine(files) as two, fake_engine() as plain:
        pools = [
            pool(one, tls_ca=files["ca"]),
            pool(two) | {"name": "distrusting"},
            pool(plain) | {"name": "plain"},
        ]
        async with gateway_of(pools) as run:
            states = {view.name: view.state for view in run.gateway.snapshot().replicas}
    assert states == {"p-0": "up", "distrusting-0": "down", "plain-0": "up"}


@pytest.mark.parametrize(
    "tls",
    [{"tls_ca": "missing"}, {"tls_ca": "nonsense"}, {"tls_client_cert": "other.cert", "tls_client_key": "client.key"}],
)
async def test_engine_files_that_are_of_no_use_stop_the_start(tls: dict[str, str], files: dict[str, str]) -> None:
    named = {setting: files.get(name, name) for setting, name in tls.items()}
    with pytest.raises(ConfigError, match=r"pool `p`: tls_.* cannot be used"):
        async with gateway_of([{"name": "p", "engine": "vllm", "replicas": ["https://127.0.0.1:9"], **named}]):
            pass
