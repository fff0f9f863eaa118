"""An arm of an experiment as a target of the quality probe: asked through the router and the engines; does I/O."""

import asyncio
from collections.abc import Sequence
from itertools import count
from secrets import token_hex
from typing import Final

import msgspec

from gateway.config.experiments import ArmConfig
from gateway.probe.answered import Answered
from gateway.probe.asking import Manner, request_body, with_answer
from gateway.probe.questions import Question
from gateway.routing.decision import Decision, Held, Priority, Rejection, RouteRequest
from gateway.routing.facts import Withdrawn
from gateway.serving.attempting import Sending
from gateway.serving.errand import run_errand
from gateway.serving.experiments.judging import replicas_of
from gateway.serving.failure import AttemptLostError
from gateway.serving.gateway import Gateway
from gateway.wire.request import Endpoint, InferenceRequest, parse

BUSY_S: Final = 120.0
"""How long a question waits for a replica that is not busy."""
LOOK_S: Final = 0.25


class ArmTarget:
    """Asks the arm's replicas in turn, each only while it has room: clients come first."""

    def __init__(self, gateway: Gateway, name: str, arm: ArmConfig, models: Sequence[str]) -> None:
        """`models` are those that take part in the experiment; none: what the replicas serve."""
        self._gateway = gateway
        self._name = name
        self._arm = arm
        self._models = models
        self._run = token_hex(4)
        self._numbers = count()

    async def ask(self, question: Question) -> Answered:
        """The answer; one with an error where the arm gives none."""
        asked = Answered(self._name, question.id, "")
        number = next(self._numbers)
        try:
            async with asyncio.timeout(BUSY_S):
                replica = await self._replica(number)
                body = request_body(question, self._model(replica), Manner(), tokens=False)
                request = parse(Endpoint.CHAT, body)
                placed = await self._placed(replica, number, request, body)
        except TimeoutError:
            return msgspec.structs.replace(asked, error="no replica of the arm had room")
        if isinstance(placed, Rejection):
            return msgspec.structs.replace(asked, error=placed.message)
        pieces: list[bytes] = []
        headers = [(b"content-type", b"application/json")]
        sending = Sending(Endpoint.CHAT, headers, body, request, placed.request_id, None, kept=False)
        try:
            await run_errand(self._gateway, placed, sending, self._gateway.observe, pieces.append)
        except AttemptLostError as failure:
            return msgspec.structs.replace(asked, error=failure.error.message)
        return with_answer(asked, b"".join(pieces))

    async def _replica(self, number: int) -> str:
        """Whose turn it is, of those that have room; waits for one."""
        gateway = self._gateway
        while True:
            backends = replicas_of(self._arm, gateway.backends.values())
            roomy = [one.name for one in backends if gateway.router.can_spare(one.name)]
            if roomy and not gateway.router.holds:
                return roomy[number % len(roomy)]
            await asyncio.sleep(LOOK_S)

    def _model(self, replica: str) -> str:
        if self._models:
            return self._models[0]
        configured = self._gateway.models.get(self._gateway.backends[replica].pool)
        if configured is not None:
            return configured
        return next((model for model, names in self._gateway.router.models().items() if replica in names), "")

    async def _placed(self, replica: str, number: int, request: InferenceRequest, body: bytes) -> Decision | Rejection:
        """The replica, booked; waits while the router would hold the request."""
        gateway = self._gateway
        chains = await gateway.chains_of(request, body)
        asked = RouteRequest(
            request_id=f"probe-{self._run}-{number}",
            model=request.model,
            chain=chains.text,
            token_chains=chains.tokens,
            streams=False,
            accepted_at=gateway.clock(),
            pinned_replica=replica,
            priority=Priority.BATCH,
            counted=False,
        )
        while isinstance(answer := gateway.router.route(asked, gateway.clock()), Held):
            gateway.observe(Withdrawn(answer.ticket, gateway.clock()))
            await asyncio.sleep(LOOK_S)
        return answer
