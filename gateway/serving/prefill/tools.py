"""The parts of the running gateway that a change works with; pure data."""

from dataclasses import dataclass

from gateway.serving.gateway import Gateway
from gateway.serving.membership.membership import Membership
from gateway.serving.polling import Poller
from gateway.serving.prefill.launching import Launching
from gateway.serving.warming.warmer import Warmer


@dataclass(frozen=True, slots=True)
class Tools:
    """`launching` knows the launchers of all pools."""

    gateway: Gateway
    membership: Membership
    poller: Poller
    warmer: Warmer
    launching: Launching
