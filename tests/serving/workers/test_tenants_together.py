"""Tenants of `serve --workers 2`: one limit, one cache and one set of secrets for all processes."""

import time
from collections.abc import Iterator

import httpx
import pytest
from processes import prefixgate
from tenants import bearer, key_of, tenant

MODEL = "deepseek-v4-flash"
LIMIT = 60


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Where two workers listen, over a simulated engine."""
    with prefixgate("engine", "simulate", "--port", "0", "--speed", "400", "--model", MODEL) as (_, engine):
        path = tmp_path_factory.mktemp("tenants") / "gateway.toml"
        keys = {name: tenant(name)["keys"][0] for name in ("ann", "bob", "cat")}
        path.write_text(
            f'[server]\nport = 0\nworkers = 2\n[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\n'
            f'replicas = ["{engine[0]}"]\n'
            f'[[tenants]]\nname = "ann"\nkeys = ["{keys["ann"]}"]\nrequests_per_minute = {LIMIT}\n'
            f'[[tenants]]\nname = "bob"\nkeys = ["{keys["bob"]}"]\n'
            f'[[tenants]]\nname = "cat"\nkeys = ["{keys["cat"]}"]\n'
        )
        with prefixgate("serve", "--config", str(path)) as (_, found):
            yield found


def post(url: str, name: str, words: int = 20) -> httpx.Response:
    """Over a connection of its own, so that either worker may answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * words}], "max_tokens": 2}
    return httpx.post(url + "/v1/chat/completions", json=body, headers=bearer(name), timeout=30, trust_env=False)


def test_two_workers_let_in_about_what_one_would(urls: list[str]) -> None:
    began_at = time.monotonic()
    statuses = [post(urls[0], "ann").status_code for _ in range(3 * LIMIT)]
    flowed_in = LIMIT * (time.monotonic() - began_at) / 60
    let_in = statuses.count(200)
    assert set(statuses) == {200, 429}
    assert LIMIT <= let_in <= LIMIT + flowed_in + LIMIT / 4, "each alone would have let in twice as much"
    metrics = httpx.get(urls[1] + "/metrics", trust_env=False, timeout=30).text
    assert f'prefixgate_tenant_requests_total{{tenant="ann"}} {let_in:.1f}' in metrics


def test_a_tenants_cache_is_the_same_whichever_worker_it_meets(urls: list[str]) -> None:
    def cached(name: str) -> int:
        return int(post(urls[0], name, 1500).json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached("bob") == 0
    assert min(cached("bob") for _ in range(12)) > 1000
    assert cached("cat") == 0


def test_either_worker_knows_the_keys(urls: list[str]) -> None:
    for _ in range(8):
        wrong = {"authorization": f"Bearer {key_of('ann')[:-1]}"}
        assert httpx.get(urls[0] + "/v1/models", headers=wrong, trust_env=False).status_code == 401
        assert httpx.get(urls[0] + "/v1/models", headers=bearer("bob"), trust_env=False).status_code == 200
