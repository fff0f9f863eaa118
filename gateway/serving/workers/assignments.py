"""What differs between the workers of one gateway: their journals; pure but for the salt, which is drawn."""

import os
import secrets
from typing import Final

import msgspec

from gateway.config import Config

SALT_ENV: Final = "PREFIXGATE_JOURNAL_SALT"


def config_of(config: Config, number: int) -> Config:
    """The configuration of one worker: it writes a journal of its own, `path.w0` and so on."""
    journal = config.journal
    if journal.path is None:
        return config
    own = msgspec.structs.replace(journal, path=f"{journal.path}.w{number}")
    return msgspec.structs.replace(config, journal=own)


def reread_by(config: Config, number: int) -> Config:
    """The configuration that a worker would have been given, had its parent read this one."""
    return config_of(_salted(config), number)


def with_drawn_salt(config: Config) -> tuple[Config, dict[str, str]]:
    """The configuration of workers, and their environment: where no salt is configured they are given one.

    In the journals of all workers a prompt has the same ids.
    """
    salted = _salted(config)
    if salted is config:
        return config, dict(os.environ)
    return salted, {**os.environ, SALT_ENV: secrets.token_hex(32)}


def _salted(config: Config) -> Config:
    journal = config.journal
    if journal.path is None or journal.salt_env is not None:
        return config
    return msgspec.structs.replace(config, journal=msgspec.structs.replace(journal, salt_env=SALT_ENV))
