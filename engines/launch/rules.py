"""How patient a supervisor is with its engines; pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """An engine that ends by itself is started again after `backoff_s`, twice as long each further time in a row and at
    most `most_backoff_s`; after `tries` in a row no more. One that ran for `steady_s` begins a new row. A process group
    has `stop_s` to end after SIGTERM. Logs are rotated at `log_bytes`, and `log_keep` old ones stay.
    """

    backoff_s: float
    most_backoff_s: float
    tries: int
    steady_s: float
    stop_s: float
    log_bytes: int
    log_keep: int

    def pause_s(self, failures: int) -> float:
        """Before the next start, after so many failures in a row."""
        return min(self.backoff_s * 2.0 ** (failures - 1), self.most_backoff_s)
