"""What differs between the workers of one gateway: their journals; pure but for the secrets, which are drawn."""

import os
import secrets
from typing import Final

import msgspec

from gateway.config import Config

SALT_ENV: Final = "PREFIXGATE_JOURNAL_SALT"
CACHE_SALT_ENV: Final = "PREFIXGATE_CACHE_SALT"


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


def with_drawn_salts(config: Config) -> tuple[Config, dict[str, str]]:
    """The configuration of workers, and their environment: where no salt is configured they are given one.

    In the journals of all workers a prompt has the same ids, and at all of them a tenant has the same cache.
    """
    salted, environment = _salted(config), dict(os.environ)
    if salted.journal != config.journal:
        environment[SALT_ENV] = secrets.token_hex(32)
    if salted.auth != config.auth:
        environment[CACHE_SALT_ENV] = secrets.token_hex(32)
    return salted, environment


def _salted(config: Config) -> Config:
    journal, auth = config.journal, config.auth
    if journal.path is not None and journal.salt_env is None:
        journal = msgspec.structs.replace(journal, salt_env=SALT_ENV)
    if config.tenants and auth.salt_env is None:
        auth = msgspec.structs.replace(auth, salt_env=CACHE_SALT_ENV)
    return msgspec.structs.replace(config, journal=journal, auth=auth)
