"""How many examples the costly laws try: few in `make test`, many where somebody has the time (make test-slow)."""

import os
from typing import Final

THOROUGH: Final = os.environ.get("THOROUGH") == "1"


def examples(quick: int, thorough: int) -> int:
    """The number for this run."""
    return thorough if THOROUGH else quick
