"""Reports that the command line makes itself, of stores or of several gateways; does I/O."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.cli.admin_client import AdminClient, AdminError
from gateway.serving.experiments.analysis import Part, judged, page_of, part_of, report_of
from gateway.serving.experiments.store import Store, StoreError


def made_here(options: argparse.Namespace, urls: Sequence[str], token: str | None) -> tuple[bytes, bytes]:
    """The report as JSON, and its page where one is wished. Raises AdminError."""
    if options.store:
        parts = [_stored(path, options.name) for path in options.store]
    else:
        path = f"/api/experiments/{options.name}/observations"
        parts = [msgspec.msgpack.decode(AdminClient(url, token).get(path), type=Part) for url in urls]
    first, *others = parts
    if any(other.trial.definition != first.trial.definition for other in others):
        raise AdminError(f"the experiments `{options.name}` of these gateways differ: their observations do not add up")
    what = judged(parts)
    report = report_of(what)
    page = b"" if options.html is None else page_of(report, what)
    return msgspec.json.encode(report), page


def _stored(path: Path, name: str) -> Part:
    try:
        store = Store(path, writes=False)
        try:
            kept = store.trial(name)
            if kept is None:
                names = ", ".join(one.trial.name for one in store.trials()) or "none"
                raise AdminError(f"{path} has no experiment `{name}`; it has: {names}")
            return part_of(store, kept)
        finally:
            store.close()
    except StoreError as error:
        raise AdminError(str(error)) from error
