"""What our OpenAPI document promises, tried by schemathesis on both ports: no answer is a server's error."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
import uvloop
from fake_engine import fake_engine
from gateways import gateway_over
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from thoroughness import examples

from gateway.wire.request import Endpoint

ENDLESS = ("/api/events",)
"""Streams that do not end by themselves."""
EXAMPLES = settings(max_examples=examples(8, 40), suppress_health_check=list(HealthCheck), derandomize=True)
HOT = [str(endpoint) for endpoint in Endpoint]


@dataclass(frozen=True)
class Ports:
    main: str
    admin: str


@pytest.fixture(scope="module")
def ports() -> Iterator[Ports]:
    """A gateway in a thread of its own, over an engine that says yes to all: schemathesis waits for its answers."""
    begun: list[Ports] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with fake_engine() as engine, gateway_over(engine.url, limit_s=None) as run:
            begun.append(Ports(run.url, run.admin_url))
            ready.set()
            await asyncio.to_thread(over.wait)

    def work() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(30)
    yield begun[0]
    over.set()
    thread.join(30)


def operations(url: str) -> dict[str, Any]:
    """What the document tells of, by method and path."""
    schema = schemathesis.openapi.from_url(url + "/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found if one.path not in ENDLESS}


def attack(operation: Any, url: str, mode: GenerationMode, checks: list[Any], statuses: set[int] | None) -> None:
    @EXAMPLES
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        answer = case.call(base_url=url, timeout=20)
        case.validate_response(answer, checks=checks)
        if statuses is not None and b"got `float`" not in answer.content:  # to JSON Schema 1.0 is an integer
            assert answer.status_code in statuses, (case.body, answer.content)

    one()


def test_the_document_tells_of_every_endpoint(ports: Ports) -> None:
    found = operations(ports.main)
    assert {f"POST {path}" for path in HOT} <= set(found)
    assert {"GET /v1/models", "GET /health", "GET /ready"} <= set(found)
    admin = operations(ports.admin)
    assert "GET /api/snapshot" in admin
    assert not {f"POST {path}" for path in HOT} & set(admin)
    document = httpx.get(ports.main + "/openapi.json", trust_env=False).json()
    assert document["components"]["schemas"]["Chat"]["required"] == ["messages"]


@pytest.mark.parametrize("path", HOT)
def test_a_body_that_fits_is_taken(ports: Ports, path: str) -> None:
    """Its model may be unknown; nothing else is wrong with it."""
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    operation = operations(ports.main)[f"POST {path}"]
    attack(operation, ports.main, GenerationMode.POSITIVE, checks, {200, 404})


@pytest.mark.parametrize("path", HOT)
def test_a_body_that_does_not_fit_is_no_servers_error(ports: Ports, path: str) -> None:
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    attack(operations(ports.main)[f"POST {path}"], ports.main, GenerationMode.NEGATIVE, checks, None)


@pytest.mark.parametrize(
    ("port", "mode"),
    [("main", GenerationMode.POSITIVE), ("admin", GenerationMode.POSITIVE), ("admin", GenerationMode.NEGATIVE)],
)
def test_everything_else(ports: Ports, port: str, mode: GenerationMode) -> None:
    url, attacked = getattr(ports, port), 0
    for operation in operations(url).values():
        if operation.path not in HOT:
            with contextlib.suppress(Unsatisfiable):  # there is nothing in it to get wrong
                attack(operation, url, mode, [not_a_server_error], None)
                attacked += 1
    assert attacked > 0
