"""`[state]` and `[journal]`: what is kept outside the process; pure."""

from typing import Final

from gateway.config.section import Section, require

LEAST_JOURNAL_BYTES: Final = 64 * 1024


class StateConfig(Section, frozen=True):
    """`[state]`: the Redis over which several gateways share what they learn; None: they do not.

    `path` is a folder for what is to outlive the process: experiments and what was observed of them, in
    `experiments.sqlite`, and figures over time, in `history.sqlite`. None keeps that in temporary files until the
    gateway ends.
    """

    redis_url: str | None = None
    path: str | None = None


class JournalConfig(Section, frozen=True):
    """`[journal]`: the file that gets one line for each ended request; None writes none.

    `salt_env` names the environment variable that holds the secret of its hashes; without one each process draws its
    own. A file of `max_bytes` is renamed, and `keep` old ones stay.
    """

    path: str | None = None
    salt_env: str | None = None
    max_bytes: int = 256 * 1024 * 1024
    keep: int = 3


def check_journal(journal: JournalConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    require(journal.path is not None or journal == JournalConfig(), "[journal] needs a path")
    for name in ("path", "salt_env"):
        require(getattr(journal, name) != "", f"[journal] {name} must not be empty")
    require(journal.max_bytes >= LEAST_JOURNAL_BYTES, f"[journal] max_bytes must be at least {LEAST_JOURNAL_BYTES}")
    require(0 <= journal.keep <= 1000, "[journal] keep must be between 0 and 1000")


def check_state(state: StateConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    require(state.path != "", "[state] path must not be empty")
    url = state.redis_url
    if url is not None:
        scheme, _, rest = url.partition("://")
        require(scheme in ("redis", "rediss", "unix") and bool(rest), "[state] redis_url must be redis://HOST:PORT")
