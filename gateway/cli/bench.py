"""`prefixgate bench …`: benchmarks of engines, one verb each; does I/O."""

from gateway.cli import bench_ladder, bench_sweep
from gateway.cli.usage import Commands


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser(
        "bench",
        help="measure engines: a prefill ladder, a sweep of chunk sizes",
        description="Measure engines.",
        epilog=f"example: {bench_ladder.EXAMPLE}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    bench_ladder.add_parser(verbs)
    bench_sweep.add_parser(verbs)
