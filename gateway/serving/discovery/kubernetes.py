"""Replicas by Kubernetes: the ready endpoints of a service, as its EndpointSlices list them; does I/O.

(EndpointSlice: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/)
"""

from typing import Final

import msgspec

from engines.kubernetes_api import KubernetesApi, KubernetesError
from gateway.config.discovery import KubernetesConfig
from gateway.serving.discovery.source import DiscoveryError, url_of


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
        self._api = KubernetesApi(config.api, config.namespace, config.token_file, config.ca_file)

    async def targets(self) -> set[str]:
        """One URL for each ready endpoint."""
        query = {"labelSelector": f"kubernetes.io/service-name={self._config.service}", "resourceVersion": "0"}
        try:
            answer = await self._api.ask(
                "GET", "apis/discovery.k8s.io/v1", "endpointslices", query=query, right="list endpointslices"
            )
        except KubernetesError as error:
            raise DiscoveryError(str(error)) from error
        try:
            return self._urls(_SLICES.decode(answer))
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

    async def close(self) -> None:
        """Close the connection."""
        await self._api.close()
