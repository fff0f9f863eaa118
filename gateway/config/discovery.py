"""`[pools.discovery]`: where a pool's replicas are named, other than in the file; pure."""

import math
from typing import Final

from gateway.config.section import Section, one_of, require

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class KubernetesConfig(Section, frozen=True):
    """`kubernetes = {…}`: the ready endpoints of a service, by its EndpointSlices.

    `namespace` is the gateway's own unless given; `port` is a port's name or number, by default the slice's first.
    `api` is the API server's URL, by default that of the cluster that we run in, asked with the token and the CA of
    the pod's service account.
    """

    service: str
    namespace: str | None = None
    port: str | int | None = None
    api: str | None = None
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    ca_file: str = f"{SERVICE_ACCOUNT}/ca.crt"


class DiscoveryConfig(Section, frozen=True):
    """`[pools.discovery]`: exactly one source, asked every `every_s` seconds.

    `dns` is HOST:PORT, each of whose addresses is a replica; `file` a JSON file of targets as Prometheus' file_sd has
    them. Replicas without a scheme of their own get `scheme`.
    """

    dns: str | None = None
    file: str | None = None
    kubernetes: KubernetesConfig | None = None
    every_s: float = 5.0
    scheme: str = "http"


def check_discovery(where: str, discovery: DiscoveryConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    named = [one for one in (discovery.dns, discovery.file, discovery.kubernetes) if one is not None]
    require(len(named) == 1, f"{where}: discovery needs exactly one of dns, file and kubernetes")
    require(0.1 <= discovery.every_s < math.inf, f"{where}: discovery.every_s must be at least 0.1")
    one_of(f"{where}: discovery.scheme", discovery.scheme, ["http", "https"])
    if discovery.dns is not None:
        host, _, port = discovery.dns.rpartition(":")
        good = bool(host) and port.isdecimal() and 0 < int(port) < 65536
        require(good, f"{where}: discovery.dns must be HOST:PORT, not {discovery.dns!r}")
    require(discovery.file != "", f"{where}: discovery.file must not be empty")
    if discovery.kubernetes is not None:
        require(bool(discovery.kubernetes.service), f"{where}: discovery.kubernetes.service must not be empty")
