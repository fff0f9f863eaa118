"""One token of every replica, for what only an answer shows of how it was started; does I/O."""

import asyncio
from typing import Final

import httpx
import msgspec

from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.gateway import Gateway
from gateway.serving.poll_clients import PollClients

_PATIENCE_S: Final = 30.0


async def answer_warnings(gateway: Gateway, snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """By replica that is up: the sentences that its answer to a short chat gives reason to.

    None of a replica that gives no answer, which may have its reasons: no chat template, or too much to do.
    """
    clients = PollClients(gateway.tls, _PATIENCE_S)
    asked = [one for one in snapshot.replicas if one.state == "up"]
    try:
        said = await asyncio.gather(*(_asked(gateway, clients, one) for one in asked))
    finally:
        await clients.aclose()
    return {one.name: sentences for one, sentences in zip(asked, said, strict=True)}


async def _asked(gateway: Gateway, clients: PollClients, replica: ReplicaView) -> tuple[str, ...]:
    model = gateway.models.get(replica.pool) or next(iter(replica.models), None)
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    backend = gateway.backends[replica.name]
    try:
        answer = await clients.of(replica.pool).post(
            f"{backend.url}/v1/chat/completions",
            content=msgspec.json.encode(body),
            headers=[*backend.credentials, (b"content-type", b"application/json")],
        )
    except httpx.HTTPError:
        return ()
    return backend.dialect.answer_warnings(answer.content) if answer.status_code == 200 else ()
