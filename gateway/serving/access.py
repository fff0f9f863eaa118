"""Who may come in: the tenants of the configuration, put together with the environment's secrets; reads both."""

import os
import secrets
from hashlib import blake2b
from typing import Final

from gateway.config import Config, ConfigError
from gateway.errors import GatewayError, Origin
from gateway.serving.headers import Fields
from gateway.tenancy.keys import sent_key
from gateway.tenancy.salt import LEAST_CHARACTERS, salt_of
from gateway.tenancy.tenancy import Tenancy
from gateway.tenancy.tenant import Tenant, TenantSpec
from gateway.wire.request import Endpoint

OPEN_PATHS: Final = frozenset(("/health", "/ready"))
"""What the main port answers without a key: load balancers have none."""
_ANTHROPIC: Final = str(Endpoint.MESSAGES)


def configured_tenancy(config: Config, secret: bytes) -> Tenancy | None:
    """The tenants, with salts made of the secret; None without any, which is when everybody is let in."""
    if not config.tenants:
        return None
    return Tenancy(tenant_specs(config, secret), required=config.auth.required)


def renewed_tenancy(before: Tenancy | None, config: Config, secret: bytes, now: float) -> Tenancy | None:
    """The same by another configuration: tenants that stay keep what they have used, and what is in flight."""
    if before is None or not config.tenants:
        return configured_tenancy(config, secret)
    before.become(tenant_specs(config, secret), required=config.auth.required, now=now)
    return before


def tenant_specs(config: Config, secret: bytes) -> list[TenantSpec]:
    """The tenants with their cache salts."""
    return [
        tenant.spec(salt_of(secret, tenant.name, tenant.salt_group) if tenant.is_salted else None)
        for tenant in config.tenants
    ]


def cache_secret(config: Config) -> bytes:
    """What cache salts are made of. Raises ConfigError where it is configured and missing, or too short."""
    name = config.auth.salt_env
    return secrets.token_bytes(32) if name is None else secret_in(name, "[auth] salt_env").encode()


def secret_in(name: str, setting: str) -> str:
    """The secret in an environment variable. Raises ConfigError, in the words of the setting that names it."""
    secret = os.environ.get(name, "").strip()
    if not secret:
        raise ConfigError(f"{setting}: the environment variable {name} is not set")
    if len(secret) < LEAST_CHARACTERS:
        raise ConfigError(f"{setting}: {name} must hold at least {LEAST_CHARACTERS} characters")
    return secret


def owned(tenant: Tenant | None, response_id: str) -> str:
    """The name under which a stored Responses object is remembered: another tenant's cannot be named at all."""
    return response_id if tenant is None else f"{tenant.name}\0{response_id}"


def engine_id(tenant: Tenant, endpoint: Endpoint, request_id: str) -> str:
    """The id under which an engine serves a request: it names the Responses object that is stored, so no two tenants
    may bring about the same one.
    """
    if endpoint is not Endpoint.RESPONSES:
        return request_id
    return f"{request_id[:100]}-{blake2b(tenant.name.encode(), digest_size=8).hexdigest()}"


def identify(tenancy: Tenancy, fields: Fields) -> Tenant | None:
    """Whose request it is by its headers; None: it may not come in."""
    return tenancy.identify(sent_key(fields))


def unknown_key(fields: Fields, path: str) -> GatewayError:
    """What is said to somebody without a key that we know, in the words of the API that was called."""
    said = "is not known here" if sent_key(fields) is not None else "is missing: send `Authorization: Bearer pg-…`"
    return GatewayError(
        f"the API key {said}",
        status=401,
        origin=Origin.CLIENT,
        type="authentication_error" if path == _ANTHROPIC else "invalid_request_error",
        code="invalid_api_key",
    )
