"""All tenants: whose key it is, and what other processes say that theirs have used; pure."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from gateway.routing.batch import TenantUse
from gateway.routing.decision import ANONYMOUS
from gateway.tenancy.keys import PREFIX
from gateway.tenancy.tenant import Tenant, TenantSpec

OLD_S: Final = 5.0
"""What others used longer ago is not counted: who has just started is told of all that was said before."""


class _Peer(msgspec.Struct):
    """Another process: the number of its last batch, when it was heard, and its requests in flight by tenant."""

    batch: int = 0
    heard_at: float = 0.0
    inflight: dict[str, int] = msgspec.field(default_factory=dict)


class Tenancy:
    """Finds tenants by key, and keeps their limits over all processes.

    Each process charges its own buckets with what all of them let in, as far as it has been told: together they let
    in too much by no more than what comes to the others within the time that telling takes.
    """

    def __init__(self, specs: Sequence[TenantSpec], *, required: bool) -> None:
        self.required = required
        self._tenants: dict[str, Tenant] = {}
        self._by_hash: dict[bytes, Tenant] = {}
        self._peers: dict[str, _Peer] = {}
        self.become(specs, required=required, now=0.0)

    def become(self, specs: Sequence[TenantSpec], *, required: bool, now: float) -> None:
        """Another configuration: tenants of the same name keep what they have used."""
        before = self._tenants
        self.required = required
        self._tenants = {}
        self._by_hash = {}
        for spec in specs:
            tenant = before.get(spec.name)
            if tenant is None:
                tenant = Tenant(spec)
            else:
                tenant.become(spec, now)
            self._tenants[spec.name] = tenant
            for key in spec.keys:
                self._by_hash[bytes.fromhex(key.partition(":")[2])] = tenant
        if not required and ANONYMOUS not in self._tenants:
            self._tenants[ANONYMOUS] = before.get(ANONYMOUS) or Tenant(TenantSpec(ANONYMOUS))
        self._count_elsewhere()

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    # Whoever measures how long this takes learns about the hash of what they sent, which tells nothing about keys:
    # no two bytes of a key are ever compared.
    def identify(self, key: bytes | None) -> Tenant | None:
        """Whose key it is; None for nobody's. Without a key, or with one that cannot be meant for us, nobody is
        `anonymous` where keys are not required.
        """
        if key is not None:
            tenant = self._by_hash.get(sha256(key).digest())
            if tenant is not None or key.startswith(PREFIX.encode()):
                return tenant
        return None if self.required else self._tenants[ANONYMOUS]

    def named(self, name: str) -> Tenant | None:
        """The tenant of this name."""
        return self._tenants.get(name)

    def weight(self, name: str) -> float:
        """Its share in a queue; 1 for who is not known."""
        tenant = self._tenants.get(name)
        return 1.0 if tenant is None else tenant.spec.weight

    # ── other processes ──────────────────────────────────────────────────────────────────────────

    def unsaid(self) -> list[TenantUse]:
        """What to tell others with the next batch: it is taken as said, and all that is in flight is said each time."""
        uses = []
        for tenant in self._tenants.values():
            if tenant.inflight or tenant.unsaid_requests or tenant.unsaid_tokens:
                uses.append(TenantUse(tenant.name, tenant.unsaid_requests, tenant.unsaid_tokens, tenant.inflight))
                tenant.unsaid_requests = tenant.unsaid_tokens = 0
        return uses

    @property
    def has_news(self) -> bool:
        """Whether others have not been told yet of something that was charged."""
        return any(tenant.unsaid_requests or tenant.unsaid_tokens for tenant in self._tenants.values())

    def hear(self, sender: str, number: int, uses: Sequence[TenantUse], at: float, now: float) -> None:
        """Another process said `at` what it has charged since it last did, and all that it has in flight."""
        peer = self._peers.setdefault(sender, _Peer())
        if number <= peer.batch:
            return
        peer.batch, peer.heard_at = number, at
        for use in uses if now - at <= OLD_S else ():
            tenant = self._tenants.get(use.tenant)
            if tenant is not None:
                tenant.charged_elsewhere(use.requests, use.tokens, now)
        inflight = {use.tenant: use.inflight for use in uses if use.inflight}
        if inflight != peer.inflight:
            peer.inflight = inflight
            self._count_elsewhere()

    def gone(self, sender: str) -> None:
        """Another process ended, and with it what it had in flight."""
        if self._peers.pop(sender, None) is not None:
            self._count_elsewhere()

    def lapse(self, since: float) -> None:
        """Processes that were not heard since then are taken to be gone."""
        for sender in [sender for sender, peer in self._peers.items() if peer.heard_at < since]:
            self.gone(sender)

    def _count_elsewhere(self) -> None:
        for name, tenant in self._tenants.items():
            tenant.elsewhere = sum(peer.inflight.get(name, 0) for peer in self._peers.values())
