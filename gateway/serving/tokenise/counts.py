"""What tokenising did and cost, for metrics; pure."""

from collections import Counter
from dataclasses import dataclass, field

from gateway.tokens.errors import Reason


@dataclass(slots=True)
class TokenCounts:
    """Counters since the start. They only grow.

    `prompts` got token ids; `fallbacks` did not, by reason. `known_bytes` and `new_bytes` of rendered text were
    found in the memo, and were encoded. Engines answered `engine_calls`; `reused_prompts` needed none, or one for
    their last turn only. `checks` compared such a shortcut with the whole, and `failed_checks` found it wrong.
    `seconds` is the time that requests waited for all of it.
    """

    prompts: int = 0
    fallbacks: Counter[Reason] = field(default_factory=Counter)
    known_bytes: int = 0
    new_bytes: int = 0
    engine_calls: int = 0
    reused_prompts: int = 0
    checks: int = 0
    failed_checks: int = 0
    seconds: float = 0.0
