"""What every table of the configuration is made of, and the words its mistakes are told in; pure."""

import difflib

import msgspec


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place and what to do."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


def nearest(word: str, valid: list[str]) -> str:
    """ "; did you mean `x`?" for the nearest valid word, else the list of all."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; valid: {', '.join(sorted(valid))}"


def one_of(what: str, word: str, valid: list[str]) -> None:
    """Raises ConfigError unless the word is one of the valid ones."""
    require(word in valid, f"{what} `{word}` is not known{nearest(word, valid)}")


def require(good: bool, message: str) -> None:
    """Raises ConfigError with the message unless all is good."""
    if not good:
        raise ConfigError(message)
