"""`[log]`: what is said on stderr, and in which form; pure."""

from typing import Final

from gateway.config.section import Section, one_of

REQUESTS: Final = ("all", "problems", "none")
FORMATS: Final = ("text", "json")


class LogConfig(Section, frozen=True):
    """`[log]`: the form of the gateway's own messages, and which requests get a line (of JSON, whatever the form).

    "problems" are all that did not end well at the first attempt. No line holds a prompt, an answer or a key.
    """

    format: str = "text"
    requests: str = "problems"


def check_log(log: LogConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    one_of("[log] format", log.format, list(FORMATS))
    one_of("[log] requests", log.requests, list(REQUESTS))
