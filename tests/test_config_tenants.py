"""Tenants, TLS and the admin token in the configuration: what is meant, and every mistake in one line."""

import pytest

from gateway.config import ConfigError, parse
from gateway.serving.access import configured_tenancy, tenant_specs

POOL = '[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://a:1"]\n'
HASH = "sha256:" + "0123456789abcdef" * 4
HTTPS = POOL.replace("http://", "https://")


def of(name: str = "t", keys: str = f'["{HASH}"]', **more: str) -> str:
    """A tenant with further settings in TOML."""
    lines = "".join(f"{setting} = {value}\n" for setting, value in more.items())
    return POOL + f'[[tenants]]\nname = "{name}"\n' + (f"keys = {keys}\n" if keys else "") + lines


def test_no_tenants_no_tenancy() -> None:
    config = parse(POOL)
    assert configured_tenancy(config, b"secret") is None
    assert config.auth.required
    assert not config.notices()


def test_a_tenant_with_everything() -> None:
    config = parse(
        of(
            models='["m"]', pools='["p"]', requests_per_minute="5", tokens_per_minute="6", max_concurrency="7",
            may_pin="true", weight="2.5", salt_group='"g"',
        )
    )  # fmt: skip
    [spec] = tenant_specs(config, b"secret")
    assert (spec.name, spec.keys, spec.models, spec.pools) == ("t", (HASH,), frozenset("m"), frozenset("p"))
    assert (spec.requests_per_minute, spec.tokens_per_minute, spec.max_concurrency) == (5, 6, 7)
    assert (spec.may_pin, spec.weight) == (True, 2.5)
    assert spec.salt is not None
    tenancy = configured_tenancy(config, b"secret")
    assert tenancy is not None
    assert (tenancy.weight("t"), tenancy.weight("nobody")) == (2.5, 1.0)


MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unknown key in tenants": (of(request_per_minute="1"), ("[tenants]", "`requests_per_minute`?")),
    "unknown key in auth": (of() + "[auth]\nneeded = true\n", ("[auth]", "`needed`")),
    "auth without tenants": (POOL + "[auth]\nrequired = false\n", ("[auth]", "[[tenants]]")),
    "an empty salt_env": (of() + '[auth]\nsalt_env = ""\n', ("salt_env", "empty")),
    "an empty name": (of(""), ("name",)),
    "a name that cannot be printed": (of("a\\u0000b"), ("name", "printable")),
    "two of a name": (of() + of().removeprefix(POOL), ("tenant `t`", "two of that name")),
    "no keys": (of(keys=""), ("tenant `t`", "prefixgate key new --tenant t")),
    "the key itself": (of(keys='["pg-abcdefgh-secretsecret"]'), ("tenant `t`", "never keys themselves")),
    "a short hash": (of(keys='["sha256:abc"]'), ("tenant `t`", "sha256:")),
    "a hash in capitals": (of(keys=f'["{HASH.upper()}"]'), ("tenant `t`",)),
    "a key of two": (of() + of("u").removeprefix(POOL), ("tenant `u`", "two tenants")),
    "a key twice": (of(keys=f'["{HASH}", "{HASH}"]'), ("tenant `t`", "listed twice")),
    "an unknown pool": (of(pools='["q"]'), ("tenant `t`", "no pool `q`")),
    "no requests": (of(requests_per_minute="0"), ("requests_per_minute", "at least 1")),
    "no tokens": (of(tokens_per_minute="-1"), ("tokens_per_minute", "at least 1")),
    "no concurrency": (of(max_concurrency="0"), ("max_concurrency", "at least 1")),
    "no weight": (of(weight="0"), ("weight", "above 0")),
    "a weight that is none": (of(weight="nan"), ("weight",)),
    "an endless weight": (of(weight="inf"), ("weight", "finite")),
    "an empty group": (of(salt_group='""'), ("salt_group", "empty")),
    "a group without salts": (of(salt_group='"g"', cache_salt="false"), ("salt_group", "cache_salt")),
    "anonymous with a key": (of("anonymous") + "[auth]\nrequired = false\n", ("anonymous", "without a key")),
    "anonymous where keys are required": (of("anonymous", keys=""), ("anonymous", "[auth] required")),
    "no connections": (POOL + "[server]\nmax_connections = 0\n", ("max_connections", "above 0")),
    "a certificate without a key": (POOL + '[server]\ntls_cert = "c"\n', ("tls_cert", "tls_key", "together")),
    "a key without a certificate": (POOL + '[server]\ntls_key = "k"\n', ("tls_cert", "tls_key", "together")),
    "an empty token": (POOL + '[server]\nadmin_token_env = ""\n', ("admin_token_env", "empty")),
    "open metrics of an open port": (POOL + "[server]\nadmin_open_metrics = true\n", ("admin_token_env",)),
    "an authority for http": (POOL + 'tls_ca = "c"\n', ("pool `p`", "https://")),
    "no verification for http": (POOL + "tls_verify = false\n", ("pool `p`", "https://")),
    "half a client's pair": (HTTPS + 'tls_client_cert = "c"\n', ("pool `p`", "tls_client_key")),
    "an authority that nobody looks at": (HTTPS + 'tls_ca = "c"\ntls_verify = false\n', ("tls_verify", "tls_ca")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_every_mistake_is_named_in_one_line(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_notices() -> None:
    assert any("salt_env" in notice for notice in parse(of()).notices())
    assert not parse(of(cache_salt="false")).notices()
    assert not parse(of() + '[auth]\nsalt_env = "X"\n').notices()
    open_to_all = parse(of() + '[auth]\nsalt_env = "X"\nrequired = false\n').notices()
    assert any("`anonymous`" in notice for notice in open_to_all)
    assert any("certificates" in notice for notice in parse(HTTPS + "tls_verify = false\n").notices())
