"""How long answers are: each tenant's mean, as far as it is known before they are given; pure."""

from collections import OrderedDict
from typing import Final

_MEMORY: Final = 0.05
_TENANTS: Final = 1000
_PRIOR: Final = 128.0


class OutputSizes:
    """Recency-weighted means of generated tokens, for the tenants that were heard of last."""

    def __init__(self) -> None:
        self._all = _PRIOR
        self._means: OrderedDict[str, float] = OrderedDict()

    def learn(self, tenant: str, tokens: int) -> None:
        """An answer was so long."""
        self._all += (tokens - self._all) * _MEMORY
        mean = self._means.pop(tenant, self._all)
        self._means[tenant] = mean + (tokens - mean) * _MEMORY
        if len(self._means) > _TENANTS:
            self._means.popitem(last=False)

    def expect(self, tenant: str) -> int:
        """Tokens of the tenant's next answer."""
        return round(self._means.get(tenant, self._all))
