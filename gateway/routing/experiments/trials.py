"""The running experiments of a router: which of them a request takes part in, and what it may choose there; pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.routing.decision import RouteRequest
from gateway.routing.experiments.assignment import arm_of, chain_of, prompt_tokens, takes_part, unit_of
from gateway.routing.experiments.definition import Arm, Eligible, Experiment, Exposure
from gateway.routing.replica import Replica
from gateway.routing.scope import Scope


class Assignment(NamedTuple):
    """The arm that a request goes by. `exposure` None: its own arm was stopped, and it is not counted in this one."""

    arm: Arm
    exposure: Exposure | None

    def among(self, replicas: list[Replica]) -> list[Replica]:
        """Those of them that are in the arm."""
        arm = self.arm
        if not (arm.pools or arm.replicas or arm.chunk_tokens):
            return replicas
        return [one for one in replicas if _covers(arm, one) and _runs(arm, one)]


class Trials:
    """Experiments in order; a request takes part in the first that wants it."""

    def __init__(self, running: Sequence[Experiment] = ()) -> None:
        self.running = tuple(running)
        self._served: object = None
        self._possible: dict[tuple[str, str, Scope | None], bool] = {}

    def __bool__(self) -> bool:
        return bool(self.running)

    @property
    def policies(self) -> set[str]:
        """Those that arms ask for."""
        return {arm.policy for one in self.running for arm in one.arms if arm.policy is not None}

    def assign(self, request: RouteRequest, model: str, served: Mapping[str, Sequence[Replica]]) -> Assignment | None:
        """The arm of a request for this model; None: it takes part in nothing.

        Nobody does who is bound to a replica anyhow, by a pin or by a stored response, or who leaves nothing in a
        prefix cache. Nor does anybody for whom an arm has no replica at all: there is nothing to compare.
        """
        pinned = request.pinned_pool is not None or request.pinned_replica is not None
        if (pinned and not request.begun) or request.response_id is not None:
            return None
        chain = chain_of(request)
        if not chain.length:
            return None
        tokens = prompt_tokens(chain)
        for experiment in self.running:
            if not _wants(experiment.eligible, request, model, tokens):
                continue
            if not self._is_possible(experiment, model, request.scope, served):
                continue
            unit = unit_of(experiment, request, chain)
            if not takes_part(experiment, unit, request.accepted_at):
                continue
            arm = arm_of(experiment, unit)
            if not arm.stopped:
                return Assignment(arm, Exposure(experiment.name, arm.name, unit))
            return Assignment(next(one for one in experiment.arms if one.name == experiment.control), None)
        return None

    def _is_possible(
        self, experiment: Experiment, model: str, scope: Scope | None, served: Mapping[str, Sequence[Replica]]
    ) -> bool:
        """Whether each arm has replicas of the model, up or not, where the scope reaches."""
        if served is not self._served:  # the fleet has changed
            self._served = served
            self._possible.clear()
        key = experiment.name, model, scope
        possible = self._possible.get(key)
        if possible is None:
            reached = [one for one in served.get(model, ()) if scope is None or scope.reaches(one.pool.spec.name)]
            possible = all(any(_covers(arm, one) for one in reached) for arm in experiment.arms)
            self._possible[key] = possible
        return possible


def _wants(eligible: Eligible, request: RouteRequest, model: str, tokens: int) -> bool:
    if eligible.models and model not in eligible.models:
        return False
    if eligible.tenants and request.tenant not in eligible.tenants:
        return False
    if tokens < eligible.min_prompt_tokens:
        return False
    if eligible.max_prompt_tokens is not None and tokens > eligible.max_prompt_tokens:
        return False
    return eligible.header is None or any(
        name == eligible.header and eligible.header_value in (None, value) for name, value in request.headers
    )


def _covers(arm: Arm, replica: Replica) -> bool:
    if arm.pools and replica.pool.spec.name not in arm.pools:
        return False
    return not arm.replicas or replica.spec.name in arm.replicas or replica.spec.url in arm.replicas


def _runs(arm: Arm, replica: Replica) -> bool:
    return arm.chunk_tokens is None or replica.description.prefill.chunk_tokens == arm.chunk_tokens
