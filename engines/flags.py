"""Settings read back from the command line that an engine was started with; pure."""

from collections.abc import Sequence


def flag_value(command: Sequence[str], flag: str) -> str | None:
    """The value of its last occurrence, as `--flag value` or `--flag=value`; None where it is not there.

    Engines take `-` and `_` in a flag for the same, and so does this.
    """
    value = None
    for number, word in enumerate(command):
        name, equals, given = word.partition("=")
        if _plain(name) != flag:
            continue
        if equals:
            value = given
        elif number + 1 < len(command):
            value = command[number + 1]
    return value


def flag_given(command: Sequence[str], flag: str) -> bool:
    """Whether the command line has the switch."""
    return any(_plain(word) == flag for word in command)


def _plain(flag: str) -> str:
    return flag.replace("_", "-")
