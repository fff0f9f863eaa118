"""Tenants: whose key it is, what is let in, what is charged in the end, and what several processes let in together."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.batch import Batch, TenantUse, decoded, encoded
from gateway.tenancy.keys import ID_BYTES, SECRET_BYTES, hash_of, id_of, is_hash, new_key, sent_key
from gateway.tenancy.salt import salt_of
from gateway.tenancy.tenancy import OLD_S, Tenancy
from gateway.tenancy.tenant import Limit, Refusal, Tenant, TenantSpec, Visit

ANN, BOB = (new_key(bytes([number]) * (ID_BYTES + SECRET_BYTES)) for number in (1, 2))


def tenancy(*specs: TenantSpec, required: bool = True) -> Tenancy:
    return Tenancy(specs or (TenantSpec("ann", (hash_of(ANN),)), TenantSpec("bob", (hash_of(BOB),))), required=required)


def name(found: Tenant | None) -> str | None:
    return None if found is None else found.name


def test_a_key_is_found_by_its_hash() -> None:
    both = tenancy()
    assert (name(both.identify(ANN.encode())), name(both.identify(BOB.encode()))) == ("ann", "bob")
    for wrong in (None, b"", b"pg-", ANN[:-1].encode(), (ANN + "x").encode(), hash_of(ANN).encode(), b"\xff"):
        assert both.identify(wrong) is None


def test_where_no_key_is_required_a_wrong_one_of_ours_still_is_wrong() -> None:
    """SDKs make their users fill in some key: that is none of ours, and nobody's."""
    both = tenancy(required=False)
    assert name(both.identify(ANN.encode())) == "ann"
    for key in (None, b"none", b"sk-12345"):
        assert name(both.identify(key)) == "anonymous"
    assert both.identify(ANN[:-1].encode()) is None


def test_keys() -> None:
    assert ANN.startswith("pg-")
    assert len({ANN, BOB}) == 2
    assert id_of(ANN) == ANN.rpartition("-")[0] or ANN.startswith(id_of(ANN) + "-")
    assert len(id_of(ANN)) == 3 + 8
    assert hash_of(ANN) == "sha256:" + sha256(ANN.encode()).hexdigest()
    assert is_hash(hash_of(ANN))
    for text in (ANN, "", "sha256:", hash_of(ANN)[:-1], hash_of(ANN) + "0", hash_of(ANN).upper(), hash_of(ANN) + "\n"):
        assert not is_hash(text)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer k"}, b"k"),
        ({b"authorization": b"bearer   k "}, b"k"),
        ({b"authorization": b"Bearer"}, None),
        ({b"authorization": b"Bearer "}, None),
        ({b"authorization": b"Basic k"}, None),
        ({b"authorization": b"Basic k", b"x-api-key": b"x"}, b"x"),
        ({b"authorization": b"Bearer k", b"x-api-key": b"x"}, b"k"),
        ({b"x-api-key": b"x"}, b"x"),
        ({b"x-api-key": b""}, None),
    ],
)
def test_where_a_key_is_sent(fields: dict[bytes, bytes], key: bytes | None) -> None:
    assert sent_key(fields) == key


def test_salts_are_told_apart_by_secret_tenant_and_group() -> None:
    salts = [
        salt_of(secret, tenant, group)
        for secret in (b"one", b"two")
        for tenant, group in (("a", None), ("b", None), ("a", "b"), ("a", "a"))
    ]
    assert len(set(salts)) == 8
    assert salt_of(b"one", "a", "g") == salt_of(b"one", "b", "g")
    assert all(len(salt) == 64 and salt.isalnum() for salt in salts)


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


def let_in(tenant: Tenant, tokens: int = 0, now: float = 0.0) -> Visit:
    visit = tenant.admit(tokens, 0, now)
    assert isinstance(visit, Visit)
    return visit


def refused(tenant: Tenant, tokens: int = 0, now: float = 0.0) -> Refusal:
    refusal = tenant.admit(tokens, 0, now)
    assert isinstance(refusal, Refusal)
    return refusal


def test_requests_a_minute() -> None:
    tenant = Tenant(TenantSpec("t", requests_per_minute=2))
    let_in(tenant).end(0, 0.0)
    let_in(tenant).end(0, 0.0)
    refusal = refused(tenant)
    assert (refusal.limit, refusal.retry_after_s) == (Limit.REQUESTS, pytest.approx(30))
    let_in(tenant, now=30.1)


def test_tokens_are_settled_by_what_was_taken() -> None:
    tenant = Tenant(TenantSpec("t", tokens_per_minute=600))
    visit = let_in(tenant, 500)
    refusal = refused(tenant, 200)
    assert (refusal.limit, refusal.retry_after_s) == (Limit.TOKENS, pytest.approx(10))
    visit.end(100, 0.0)
    visit.end(100, 0.0)
    allowance = tenant.tokens_left(0.0)
    assert allowance is not None
    assert (allowance.limit, allowance.left) == (600, 500)
    let_in(tenant, 200).end(900, 0.0)
    assert refused(tenant, 1).retry_after_s == pytest.approx(40.1), "what it took more than allowed is owed"
    assert tenant.tokens == 1000


def test_one_large_request_is_let_in_by_a_full_bucket() -> None:
    tenant = Tenant(TenantSpec("t", tokens_per_minute=600))
    let_in(tenant, 5000)
    assert refused(tenant, 1).limit is Limit.TOKENS


def test_concurrency() -> None:
    tenant = Tenant(TenantSpec("t", max_concurrency=2))
    visits = [let_in(tenant), let_in(tenant)]
    assert refused(tenant).limit is Limit.CONCURRENCY
    visits[0].end(0, 0.0)
    visits[0].end(0, 0.0)
    let_in(tenant)
    assert refused(tenant).limit is Limit.CONCURRENCY
    assert (tenant.admitted, tenant.refused) == (3, {Limit.REQUESTS: 0, Limit.TOKENS: 0, Limit.CONCURRENCY: 2})


def test_a_refused_request_is_charged_nothing() -> None:
    tenant = Tenant(TenantSpec("t", requests_per_minute=1, tokens_per_minute=100, max_concurrency=1))
    let_in(tenant, 60)
    before = tenant.requests_left(0.0), tenant.tokens_left(0.0)
    for _ in range(10):
        refused(tenant, 60)
    assert (tenant.requests_left(0.0), tenant.tokens_left(0.0)) == before


def test_another_configuration_keeps_what_is_used() -> None:
    both = tenancy()
    ann = both.identify(ANN.encode())
    assert ann is not None
    visit = let_in(ann)
    both.become([TenantSpec("ann", (hash_of(BOB),), max_concurrency=1)], required=True, now=1.0)
    assert both.identify(ANN.encode()) is None
    assert both.identify(BOB.encode()) is ann
    assert refused(ann, now=1.0).limit is Limit.CONCURRENCY
    visit.end(0, 2.0)
    let_in(ann, now=2.0)


# ── several processes ────────────────────────────────────────────────────────────────────────────

SPEC = TenantSpec("ann", (hash_of(ANN),), requests_per_minute=30, tokens_per_minute=3000, max_concurrency=4)


class Process:
    """One of several; `tell` says its news to the others."""

    def __init__(self, number: int) -> None:
        self.name = str(number)
        self.tenancy = tenancy(SPEC)
        (self.tenant,) = self.tenancy
        self.batches = 0

    def tell(self, others: list["Process"], now: float) -> None:
        self.batches += 1
        batch = decoded(encoded(Batch(self.name, self.batches, now, [], self.tenancy.unsaid())))
        for other in others:
            if other is not self:
                other.tenancy.hear(batch.sender, batch.number, batch.uses, now, now)


@given(st.lists(st.integers(0, 2), max_size=120))
def test_together_they_let_in_what_one_would(turns: list[int]) -> None:
    """Told at once, they differ in nothing: 30 requests and no more."""
    processes = [Process(number) for number in range(3)]
    admitted = 0
    for turn in turns:
        visit = processes[turn].tenant.admit(10, 0, 0.0)
        if isinstance(visit, Visit):
            admitted += 1
            visit.end(10, 0.0)
        processes[turn].tell(processes, 0.0)
    assert admitted == min(len(turns), 30)


def test_told_late_each_lets_in_no_more_than_alone() -> None:
    processes = [Process(number) for number in range(3)]
    for process in processes:
        for _ in range(4):
            let_in(process.tenant, 10).end(10, 0.0)
    for process in processes:
        process.tell(processes, 0.0)
    lefts = [process.tenant.requests_left(0.0) for process in processes]
    assert [left.left for left in lefts if left is not None] == [18, 18, 18]


def test_concurrency_counts_what_is_elsewhere_until_it_ends_or_its_process_does() -> None:
    here, there, third = (Process(number) for number in range(3))
    all_of_them = [here, there, third]
    visits = [let_in(there.tenant) for _ in range(3)]
    let_in(third.tenant)
    there.tell(all_of_them, 0.0)
    third.tell(all_of_them, 0.0)
    assert refused(here.tenant).limit is Limit.CONCURRENCY
    for visit in visits[:2]:
        visit.end(0, 1.0)
    there.tell(all_of_them, 1.0)
    assert here.tenant.elsewhere == 2
    here.tenancy.gone("1")
    assert here.tenant.elsewhere == 1
    here.tenancy.lapse(0.5)
    assert here.tenant.elsewhere == 0
    there.tell(all_of_them, 2.0)
    assert here.tenant.elsewhere == 1


def test_what_was_said_before_and_what_is_old_is_not_charged() -> None:
    here = Process(0)
    use = [TenantUse("ann", 5, 500, 1), TenantUse("unknown", 5, 5, 5)]
    here.tenancy.hear("1", 7, use, 0.0, 0.0)
    here.tenancy.hear("1", 7, use, 0.0, 0.0)
    here.tenancy.hear("1", 6, use, 0.0, 0.0)
    here.tenancy.hear("2", 1, use, 0.0, OLD_S + 1)
    left = here.tenant.requests_left(0.0)
    assert left is not None
    assert left.left == 25
    assert here.tenant.elsewhere == 2, "in flight is in flight, however long ago it was said"


def test_a_batch_without_tenants_is_one_of_before() -> None:
    assert decoded(encoded(Batch("a", 1, 0.0, []))).uses == []
    assert decoded(b"\x94\xa1a\x01\xcb\0\0\0\0\0\0\0\0\x90") == Batch("a", 1, 0.0, [])
