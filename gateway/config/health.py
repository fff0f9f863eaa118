"""`[health]`: when a replica counts as down or broken, and when as well again; pure."""

from gateway.config.section import Section, require
from gateway.routing.health import HealthRules

_RULES = HealthRules()


class HealthConfig(Section, frozen=True):
    """`[health]`: what its answers and the looks at a replica say of it.

    Its circuit breaker opens after `failures` in a row (or half of many), for `open_s` and twice as long with each
    opening that follows, up to `most_open_s`; then `probes` requests must succeed. `down_after` looks that fail one
    after the other make it down (a refused connection does at once).
    """

    failures: int = int(_RULES.failures)
    open_s: float = _RULES.open_s
    most_open_s: float = _RULES.most_open_s
    probes: int = _RULES.probes
    down_after: int = 2

    def rules(self) -> HealthRules:
        """As the router wants them."""
        return HealthRules(float(self.failures), self.open_s, self.most_open_s, self.probes)


def check_health(health: HealthConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name in ("failures", "probes", "down_after"):
        require(1 <= getattr(health, name) <= 1000, f"[health] {name} must be between 1 and 1000")
    require(0 < health.open_s <= health.most_open_s <= 3600, "[health] needs 0 < open_s <= most_open_s <= 3600")
