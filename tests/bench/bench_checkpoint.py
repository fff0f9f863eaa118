"""A checkpoint of 2 GB and more through convert, materialize, verify and back: seconds, speed and peak memory of each.

usage: bench_checkpoint.py [--gb 2.2] [--shards 4] [--folder DIR] [--json]

Every step is the real command in a process of its own, whose peak resident memory the kernel tells. Exit status 1 if
one needs more than 200 MB, or the end differs from the beginning.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from checkpoints import write_checkpoint

LIMIT_MB = 200.0
TENSORS = 100_000
"""About as many as DeepSeek-V4-Flash has: 43 layers, 256 experts, three projections with weight, scale and shape."""


@dataclass(frozen=True)
class Step:
    """One command; `gb_per_s` of the bytes that it reads of the shards, None where it reads none."""

    name: str
    seconds: float
    cpu_s: float
    peak_mb: float
    gb_per_s: float | None


def timed(name: str, arguments: list[str], gb: float | None) -> Step:
    started = time.monotonic()
    command = [sys.executable, "-m", "gateway", "checkpoint", *arguments]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"{name} failed: {' '.join(arguments)}")
    cpu_s = round(usage.ru_utime + usage.ru_stime, 2)
    return Step(name, round(seconds, 2), cpu_s, round(usage.ru_maxrss / 1024, 1), gb and round(gb / seconds, 2))


def measured(folder: Path, gb: float, shards: int) -> tuple[list[Step], dict[str, object]]:
    base, recipe, linked, copied, back = (folder / name for name in ("base", "recipe", "linked", "copied", "back.json"))
    write_checkpoint(base, shards=shards, shard_bytes=int(gb * 1e9 / shards), experts=TENSORS // 3 // shards)
    files = sorted(base.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files) / 1e9
    steps = [
        timed("convert", ["convert", str(base), str(recipe)], None),
        timed("materialize, hard links", ["materialize", str(base), str(recipe), str(linked)], None),
        timed("verify, hard links", ["verify", str(base), str(linked)], None),
        timed("materialize, copies", ["materialize", str(base), str(recipe), str(copied), "--copy"], size),
        timed("verify, copies", ["verify", str(base), str(copied)], size),
        timed("convert --reverse", ["convert", str(linked), str(back), "--reverse"], None),
    ]
    facts = {
        "gb": round(size, 2),
        "shards": len(files),
        "tensors": len(json.loads((base / "model.safetensors.index.json").read_bytes())["weight_map"]),
        "linked_shards_are_the_bases": all(path.samefile(linked / path.name) for path in files),
        "copied_shards_are_other_files": not any(path.samefile(copied / path.name) for path in files),
        "reverse_is_the_base": back.read_bytes() == (base / "config.json").read_bytes(),
    }
    return steps, facts


def main() -> int:
    parser = argparse.ArgumentParser(description="convert, materialize, verify and reverse a checkpoint of some GB")
    parser.add_argument("--gb", type=float, default=2.2)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where to work (default: the machine's temporary folder)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=options.folder) as folder:
        steps, facts = measured(Path(folder), options.gb, options.shards)
    if options.json:
        print(json.dumps({"steps": [asdict(step) for step in steps], **facts}))
    else:
        print(f"{facts['gb']} GB in {facts['shards']} shards, {facts['tensors']} tensors")
        for step in steps:
            speed = "" if step.gb_per_s is None else f"{step.gb_per_s:6.2f} GB/s"
            times = f"{step.seconds:7.2f} s  {step.cpu_s:6.2f} s CPU"
            print(f"  {step.name:24} {times}  {step.peak_mb:6.1f} MB at most  {speed}")
        for name in ("linked_shards_are_the_bases", "copied_shards_are_other_files", "reverse_is_the_base"):
            print(f"  {name.replace('_', ' ')}: {'yes' if facts[name] else 'NO'}")
    sound = all(value is not False for value in facts.values())
    return 0 if sound and max(step.peak_mb for step in steps) <= LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
