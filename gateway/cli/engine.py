"""`prefixgate engine …`: a module for each group of verbs; does I/O."""

from gateway.cli.engine_launch import add_launch, add_logs, add_status, add_stop
from gateway.cli.engine_render import add_render
from gateway.cli.engine_simulate import EXAMPLE, add_simulate
from gateway.cli.usage import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser(
        "engine",
        help="print how engines are launched, run them, or simulate one",
        description="Engines.",
        epilog=f"example: {EXAMPLE}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_render(verbs)
    add_launch(verbs)
    add_status(verbs)
    add_stop(verbs)
    add_logs(verbs)
    add_simulate(verbs)
