"""Uncached tokens that were sent and wait for their first token, by worker; pure."""


class PrefillLedger:
    """Booked when a prompt is sent, settled at its first token or its end, whichever comes first."""

    def __init__(self, slots: int) -> None:
        self.tokens = [0] * slots
        """Booked and not settled, by slot."""
        self.prompts = [0] * slots
        """How many prompts these are, by slot."""
        self._booked: dict[int, tuple[int, int]] = {}

    def book(self, number: int, slot: int, tokens: int) -> None:
        """A prompt was sent to this worker, which has to prefill so many of its tokens."""
        self._booked[number] = slot, tokens
        self.tokens[slot] += tokens
        self.prompts[slot] += 1

    def settle(self, number: int) -> int | None:
        """Its prefill is over: the tokens that were booked, None when it is settled already."""
        booked = self._booked.pop(number, None)
        if booked is None:
            return None
        slot, tokens = booked
        self.tokens[slot] -= tokens
        self.prompts[slot] -= 1
        return tokens
