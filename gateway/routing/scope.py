"""What a tenant sees of the fleet: some models, some pools; pure."""

import msgspec


class Scope(msgspec.Struct, frozen=True, gc=False):
    """Names of models and pools; an empty set means all. What is outside does not exist for whoever has this scope."""

    models: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()

    def sees(self, model: str) -> bool:
        """Whether the model may be asked for."""
        return not self.models or model in self.models

    def reaches(self, pool: str) -> bool:
        """Whether the pool may be used."""
        return not self.pools or pool in self.pools
