"""The HTTP clients that replicas are polled with: one for all pools of the same TLS context; does I/O."""

import ssl

import httpx

from gateway.serving.tls import EngineTls


class PollClients:
    """Opened when first asked for, closed together."""

    def __init__(self, tls: EngineTls, timeout_s: float) -> None:
        self._tls = tls
        self._timeout_s = timeout_s
        self._clients: dict[ssl.SSLContext, httpx.AsyncClient] = {}

    def of(self, pool: str) -> httpx.AsyncClient:
        """The one for a pool's replicas."""
        context = self._tls.of_pool(pool)
        client = self._clients.get(context)
        if client is None:
            client = httpx.AsyncClient(timeout=self._timeout_s, trust_env=False, verify=context)
            self._clients[context] = client
        return client

    def configure(self, timeout_s: float) -> None:
        """So long may one look take from now on."""
        self._timeout_s = timeout_s
        for client in self._clients.values():
            client.timeout = httpx.Timeout(timeout_s)

    async def aclose(self) -> None:
        """Close them all."""
        for client in self._clients.values():
            await client.aclose()
