"""Where a gateway keeps its experiments, and what it finds there when it begins; does I/O."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.config import Config, ConfigError
from gateway.serving.experiments.store import FILE_NAME, StoreError, known_trials
from gateway.serving.experiments.trial import Trials


@contextmanager
def kept_in(config: Config) -> Iterator[Path]:
    """The store's file: in `[state] path`, or in a folder that is gone with the block. Raises ConfigError."""
    if config.state.path is not None:
        yield _checked(Path(config.state.path)) / FILE_NAME
        return
    folder = tempfile.mkdtemp(prefix="prefixgate-")
    try:
        yield Path(folder) / FILE_NAME
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trials_in(store: Path) -> Trials:
    """What a gateway before this one has left there. Raises ConfigError."""
    if not store.exists():
        return ()
    try:
        return known_trials(store)
    except StoreError as error:
        raise ConfigError(f"[state] path: {error}") from error


def _checked(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"[state] path: there is no directory {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"[state] path: the directory {folder} is not writable")
    return folder.resolve()
