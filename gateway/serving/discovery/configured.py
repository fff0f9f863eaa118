"""The sources that the configuration asks for, and one look at all of them; does I/O."""

from pathlib import Path

from gateway.config import Config, ConfigError
from gateway.config.discovery import DiscoveryConfig
from gateway.serving.discovery.dns import DnsSource
from gateway.serving.discovery.file import FileSource
from gateway.serving.discovery.kubernetes import KubernetesSource
from gateway.serving.discovery.source import DiscoveryError, Source
from gateway.serving.membership.member import DISCOVERY
from gateway.serving.membership.plan import Add, Plan, after, first_plan
from gateway.serving.membership.refusal import PlanError


def source_of(config: DiscoveryConfig) -> Source:
    """The source that is configured."""
    if config.dns is not None:
        return DnsSource(config.dns, config.scheme)
    if config.file is not None:
        return FileSource(Path(config.file), config.scheme)
    assert config.kubernetes is not None  # noqa: S101 - the configuration was checked
    return KubernetesSource(config.kubernetes, config.scheme)


async def discovered(config: Config) -> Plan:
    """The plan with what all sources name now, for commands that only look once. Raises ConfigError."""
    plan = first_plan(config)
    for pool in config.pools:
        if pool.discovery is None:
            continue
        source = source_of(pool.discovery)
        try:
            for url in sorted(await source.targets()):
                if all(member.url != url for member in plan.members):
                    plan = after(plan, Add(pool.name, url, origin=DISCOVERY))
        except (DiscoveryError, PlanError) as error:
            raise ConfigError(f"pool `{pool.name}`: discovery: {error}") from error
        finally:
            await source.close()
    return plan
