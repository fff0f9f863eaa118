"""TLS contexts, for clients and towards engines, from the PEM files that the configuration names; reads files."""

import ssl
from collections.abc import Sequence

from gateway.config import ConfigError, PoolConfig, ServerConfig


def server_context(server: ServerConfig) -> ssl.SSLContext | None:
    """For both ports; None where they speak plain HTTP. Raises ConfigError for files that cannot be used."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, server.tls_cert, server.tls_key, "[server] tls_cert, tls_key")
    return context


class EngineTls:
    """The contexts of connections to replicas: one for each pool with settings of its own, one for all others.

    Raises ConfigError for files that cannot be used.
    """

    def __init__(self, pools: Sequence[PoolConfig]) -> None:
        self._usual = ssl.create_default_context()
        self._pools: dict[str, ssl.SSLContext] = {}
        self._urls: dict[str, ssl.SSLContext] = {}
        self.adopt(pools)

    def adopt(self, pools: Sequence[PoolConfig]) -> None:
        """The pools are these now; settings of those that were there before stay. Raises ConfigError."""
        for gone in self._pools.keys() - {pool.name for pool in pools}:
            del self._pools[gone]
        for pool in pools:
            wished = pool.tls_ca is not None or pool.tls_client_cert is not None or not pool.tls_verify
            if wished and pool.name not in self._pools:
                self._pools[pool.name] = _pool_context(pool)
            for replica in pool.spec().replicas:
                self.learn(replica.url, pool.name)

    def learn(self, url: str, pool: str) -> None:
        """A replica is of this pool."""
        self._urls[url] = self.of_pool(pool)

    def of_pool(self, pool: str) -> ssl.SSLContext:
        """For replicas of a pool."""
        return self._pools.get(pool, self._usual)

    def of_url(self, url: str) -> ssl.SSLContext:
        """For the replica with this base URL."""
        return self._urls.get(url, self._usual)


def _pool_context(pool: PoolConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not pool.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    where = f"pool `{pool.name}`: "
    if pool.tls_ca is not None:
        try:
            context = ssl.create_default_context(cafile=pool.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{where}tls_ca: {pool.tls_ca} cannot be used: {_why(error)}") from error
    if pool.tls_client_cert is not None and pool.tls_client_key is not None:
        _load_pair(context, pool.tls_client_cert, pool.tls_client_key, f"{where}tls_client_cert, tls_client_key")
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str, setting: str) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{setting}: {certificate} and {key} cannot be used: {_why(error)}") from error


def _no_password() -> str:
    """Without this an encrypted key would be asked for on the terminal."""
    return ""


def _why(error: OSError) -> str:
    return error.strerror or getattr(error, "reason", None) or "they are not what they should be"
