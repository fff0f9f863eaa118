"""The `prefixgate` command (also `python -m gateway`)."""

import sys

from gateway.cli import run


def main() -> None:
    """Entry point of the console script; exits with the command's status."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
