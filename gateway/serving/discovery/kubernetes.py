"""Replicas by Kubernetes: the ready endpoints of a service, as its EndpointSlices list them; does I/O.

(EndpointSlice: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/)
"""

import os
import ssl
from pathlib import Path
from typing import Final

import httpx
import msgspec

from gateway.config.discovery import SERVICE_ACCOUNT, KubernetesConfig
from gateway.serving.discovery.source import DiscoveryError, url_of

TIMEOUT_S: Final = 5.0
_NAMESPACE_FILE: Final = f"{SERVICE_ACCOUNT}/namespace"


class Conditions(msgspec.Struct):
    """`ready` None is unknown, which is to be taken for true."""

    ready: bool | None = None


class Endpoint(msgspec.Struct):
    """One pod."""

    addresses: list[str]
    conditions: Conditions = msgspec.field(default_factory=Conditions)


class Port(msgspec.Struct):
    """One port of all endpoints of a slice."""

    name: str | None = None
    port: int | None = None


class Slice(msgspec.Struct):
    """Some of a service's endpoints."""

    endpoints: list[Endpoint] | None = None
    ports: list[Port] | None = None


class Slices(msgspec.Struct):
    """The answer to a list."""

    items: list[Slice]


_SLICES: Final = msgspec.json.Decoder(Slices)


class KubernetesSource:
    """Lists the slices anew each time, from the API server's cache (resourceVersion=0): that costs it next to nothing,
    and unlike a watch it cannot fall behind unnoticed.
    """

    def __init__(self, config: KubernetesConfig, scheme: str) -> None:
        self._config = config
        self._scheme = scheme
        self._client: httpx.AsyncClient | None = None

    async def targets(self) -> set[str]:
        """One URL for each ready endpoint."""
        try:
            client = self._client or self._opened()
            token = Path(self._config.token_file).read_text(encoding="ascii").strip()  # it is renewed now and then
            namespace = self._config.namespace or Path(_NAMESPACE_FILE).read_text(encoding="ascii").strip()
            answer = await client.get(
                f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
                params={"labelSelector": f"kubernetes.io/service-name={self._config.service}", "resourceVersion": "0"},
                headers={"authorization": f"Bearer {token}"},
            )
        except (OSError, UnicodeDecodeError) as error:
            raise DiscoveryError(f"the service account cannot be read: {error}") from error
        except httpx.HTTPError as error:
            raise DiscoveryError(f"the API server does not answer: {error or type(error).__name__}") from error
        if answer.status_code != 200:
            hint = " (may the service account list endpointslices?)" if answer.status_code in (401, 403) else ""
            raise DiscoveryError(f"the API server answered {answer.status_code}{hint}")
        try:
            return self._urls(_SLICES.decode(answer.content))
        except msgspec.DecodeError as error:
            raise DiscoveryError(f"the API server's answer cannot be read: {error}") from error

    def _urls(self, slices: Slices) -> set[str]:
        urls: set[str] = set()
        for one in slices.items:
            port = self._port(one.ports or [])
            for endpoint in one.endpoints or []:
                if port is not None and endpoint.conditions.ready is not False:
                    # The addresses of one endpoint are all the same pod's.
                    urls.update(url_of(self._scheme, address, port) for address in endpoint.addresses[:1])
        return urls

    def _port(self, ports: list[Port]) -> int | None:
        """The wished port by its name or number: a number needs no entry, as services may map it to another one."""
        wished = self._config.port
        if isinstance(wished, int):
            return wished
        return next((one.port for one in ports if one.port and wished in (None, one.name)), None)

    def _opened(self) -> httpx.AsyncClient:
        url = self._config.api
        if url is None:
            host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise DiscoveryError("this is no Kubernetes pod (KUBERNETES_SERVICE_HOST is not set): say `api`")
            url = url_of("https", host, int(port))
        verify: ssl.SSLContext | bool = True
        if url.startswith("https:"):
            verify = ssl.create_default_context(cafile=self._config.ca_file)
        self._client = httpx.AsyncClient(base_url=url, verify=verify, timeout=TIMEOUT_S, trust_env=False)
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.aclose()
