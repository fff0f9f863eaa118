"""`prefixgate key new`: an API key for a tenant, shown once, and the hash of it for the configuration; draws it."""

import argparse
import secrets
import sys

import msgspec

from gateway.cli.usage import Commands, UsageError, command
from gateway.tenancy.keys import ID_BYTES, SECRET_BYTES, hash_of, id_of, new_key

EXAMPLE = "prefixgate key new --tenant search-team"


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser("key", help="make an API key", description="API keys.", epilog=f"example: {EXAMPLE}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    new = command(verbs, "new", _new, "make an API key, show it once, and show what the configuration needs", EXAMPLE)
    new.add_argument("--tenant", required=True, metavar="NAME", help="whose key it is to be")
    new.add_argument("--json", action="store_true", help="print {tenant, key, id, hash}")


def _new(options: argparse.Namespace) -> int:
    tenant: str = options.tenant
    if not tenant or not tenant.isprintable():
        raise UsageError("--tenant must be a printable name")
    key = new_key(secrets.token_bytes(ID_BYTES + SECRET_BYTES))
    if options.json:
        told = {"tenant": tenant, "key": key, "id": id_of(key), "hash": hash_of(key)}
        print(msgspec.json.encode(told).decode())
        return 0
    print("The key, for whoever is to use it; it is shown this once:", file=sys.stderr)
    print(key)
    print("For the configuration, which never holds the key itself:", file=sys.stderr)
    name = msgspec.json.encode(tenant).decode()  # what JSON escapes, TOML escapes alike
    print(f'[[tenants]]\nname = {name}\nkeys = ["{hash_of(key)}"]  # {id_of(key)}…')
    return 0
