"""`[auth]` and `[[tenants]]`: who may ask, for what, for how much, and from which cache; pure."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.config.section import Section, require
from gateway.routing.decision import ANONYMOUS
from gateway.tenancy.keys import is_hash
from gateway.tenancy.tenant import TenantSpec

_LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "max_concurrency")


class AuthConfig(Section, frozen=True):
    """`[auth]`: whether a key is needed once there are tenants, and what cache salts are made of.

    `salt_env` names the environment variable that holds the secret of all tenants' cache salts; without one each
    deployment draws its own.
    """

    required: bool = True
    salt_env: str | None = None


class TenantConfig(Section, frozen=True):
    """`[[tenants]]`: one who is known by keys. `keys` are what `prefixgate key new` says.

    Empty `models` or `pools` mean all, None means no limit. `tokens_per_minute` are of prompts and of what is
    generated. `may_pin`: may name the pool or replica of a request. `weight` is its share of a queue. Prompts get a
    cache of their own unless `cache_salt` is false; tenants of one `salt_group` share theirs.
    """

    name: str
    keys: list[str] = msgspec.field(default_factory=list)
    models: list[str] = msgspec.field(default_factory=list)
    pools: list[str] = msgspec.field(default_factory=list)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    may_pin: bool = False
    weight: float = 1.0
    salt_group: str | None = None
    cache_salt: bool = True

    @property
    def is_salted(self) -> bool:
        """Whether its prompts get a salt from us; who has no key shares one cache with all who have none."""
        return self.cache_salt and self.name != ANONYMOUS

    def spec(self, salt: str | None) -> TenantSpec:
        """As the tenancy wants it, with its cache salt."""
        return TenantSpec(
            self.name,
            tuple(self.keys),
            frozenset(self.models),
            frozenset(self.pools),
            self.requests_per_minute,
            self.tokens_per_minute,
            self.max_concurrency,
            self.may_pin,
            self.weight,
            salt,
        )


def check_tenants(auth: AuthConfig, tenants: Sequence[TenantConfig], pools: Sequence[str]) -> None:
    """What types cannot say; `pools` are the names of all. Raises ConfigError."""
    require(auth.salt_env != "", "[auth] salt_env must not be empty")
    require(bool(tenants) or auth == AuthConfig(), "[auth] says something of [[tenants]], but there are none")
    names: set[str] = set()
    keys: set[str] = set()
    for tenant in tenants:
        where = f"tenant `{tenant.name}`"
        require(bool(tenant.name) and tenant.name.isprintable(), f"{where}: a name is printable and not empty")
        require(tenant.name not in names, f"{where}: there are two of that name")
        names.add(tenant.name)
        _check_keys(where, auth, tenant)
        for key in tenant.keys:
            require(key not in keys, f"{where}: {key[:16]}… is the key of two tenants, or listed twice")
            keys.add(key)
        for pool in tenant.pools:
            require(pool in pools, f"{where}: there is no pool `{pool}`")
        for name in _LIMITS:
            limit = getattr(tenant, name)
            require(
                limit is None or 1 <= limit <= 1 << 40, f"{where}: {name} must be at least 1; leave it out for none"
            )
        require(0 < tenant.weight < math.inf, f"{where}: weight must be above 0 and finite")
        require(tenant.salt_group != "", f"{where}: salt_group must not be empty")
        require(
            tenant.is_salted or tenant.salt_group is None,
            f"{where}: salt_group and cache_salt = false exclude each other",
        )


def _check_keys(where: str, auth: AuthConfig, tenant: TenantConfig) -> None:
    if tenant.name == ANONYMOUS:
        require(not tenant.keys, f"{where}: it stands for those without a key, so it has none")
        require(not auth.required, f"{where}: nobody is without a key unless [auth] required is false")
        return
    require(bool(tenant.keys), f"{where}: it needs a key: prefixgate key new --tenant {tenant.name}")
    for key in tenant.keys:
        message = f"{where}: keys hold hashes (sha256:…, as `prefixgate key new` prints them), never keys themselves"
        require(is_hash(key), message)


def tenant_notices(auth: AuthConfig, tenants: Sequence[TenantConfig]) -> list[str]:
    """What an operator should know: sentences."""
    notices = []
    if auth.salt_env is None and any(tenant.is_salted for tenant in tenants):
        notices.append(
            "cache salts are drawn at each start: engines' caches are of no use to tenants after a restart, nor shared "
            "between gateways; give them a secret with [auth] salt_env"
        )
    if tenants and not auth.required and not any(tenant.name == ANONYMOUS for tenant in tenants):
        notices.append("requests without a key have no limits: add [[tenants]] with the name `anonymous` to set some")
    return notices
