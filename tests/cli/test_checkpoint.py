"""`prefixgate checkpoint`: small real checkpoints on disk, sound and broken in every way that the disk can be."""

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import write_checkpoint, write_shard

from gateway.cli import run

SHARD = "model-00002-of-00004.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base")


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Path:
    """What convert wrote."""
    assert run(["checkpoint", "convert", str(base), str(tmp_path / "recipe")]) == 0
    return tmp_path / "recipe"


@pytest.fixture
def whole(base: Path, recipe: Path, tmp_path: Path) -> Path:
    """What materialize made: copies, so that they can be broken apart from the base."""
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(tmp_path / "whole"), "--copy"]) == 0
    return tmp_path / "whole"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    told = capsys.readouterr().err
    assert told.startswith("prefixgate: ")
    assert told.count("\n") == 1
    return told


def shape(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and inode."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino) for path in files}


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def findings(base: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    status = run(["checkpoint", "verify", str(base), str(out), "--json"])
    found: list[str] = json.loads(capsys.readouterr().out)["findings"]
    assert status == (1 if found else 0)
    return found


def test_convert_materialize_verify_reverse(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = shape(base)
    recipe, out = tmp_path / "recipe", tmp_path / "a" / "new" / "place"
    assert run(["checkpoint", "convert", str(base), str(recipe)]) == 0
    assert "quantization_config.config_groups.group_1.input_activations, _w4a8_conversion" in capsys.readouterr().out
    assert not list(recipe.glob("*.safetensors"))
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(out)]) == 0
    assert "4 files hard-linked" in capsys.readouterr().out
    assert run(["checkpoint", "verify", str(base), str(out)]) == 0
    assert "hard link" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["place"]
    new = shape(out)
    assert {name for name in before if not name.startswith(".")} == set(new)
    for name, (data, inode) in new.items():
        assert (data == before[name][0]) is (name != "config.json")
        assert (inode == before[name][1]) is name.endswith(".safetensors")
    assert run(["checkpoint", "convert", str(out), str(tmp_path / "back" / "config.json"), "--reverse"]) == 0
    assert (tmp_path / "back" / "config.json").read_bytes() == before["config.json"][0]
    assert shape(base) == before


def test_copies_are_compared_byte_for_byte(base: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = shape(base), shape(whole)
    for name, (data, inode) in new.items():
        assert inode != old[name][1]
        assert data == old[name][0] or name == "config.json"
    assert findings(base, whole, capsys) == []
    assert run(["checkpoint", "verify", str(base), str(whole)]) == 0
    assert "same bytes" in capsys.readouterr().out


def test_a_base_of_links_as_a_download_cache_has_it(base: Path, recipe: Path, tmp_path: Path) -> None:
    """Hugging Face's cache: snapshots of symbolic links into a store of blobs."""
    snapshot = tmp_path / "snapshot"
    shutil.copytree(base, snapshot)
    for shard in base.glob("*.safetensors"):
        (snapshot / shard.name).unlink()
        (snapshot / shard.name).symlink_to(shard)
    assert run(["checkpoint", "materialize", str(snapshot), str(recipe), str(tmp_path / "out")]) == 0
    for shard in base.glob("*.safetensors"):
        made = tmp_path / "out" / shard.name
        assert not made.is_symlink()
        assert made.samefile(shard)


def test_one_shard_without_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_checkpoint(tmp_path / "base", shards=1)
    (base / INDEX).unlink()
    (base / "model-00001-of-00001.safetensors").rename(base / "model.safetensors")
    assert run(["checkpoint", "convert", str(base / "config.json"), str(tmp_path / "config.json")]) == 0
    assert run(["checkpoint", "materialize", str(base), str(tmp_path / "config.json"), str(tmp_path / "out")]) == 0
    assert findings(base, tmp_path / "out", capsys) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def only(shard: Path, *, without: str) -> None:
    """The shard anew, of the same size, with one tensor called otherwise."""
    data = shard.read_bytes()
    assert data.count(without.encode()) == 1
    shard.write_bytes(data.replace(without.encode(), without.upper().encode()))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda folder: (folder / SHARD).unlink(), f"the shard {SHARD} is missing"),
    "cut off shard": (lambda folder: os.truncate(folder / SHARD, 20_000), f"the shard {SHARD} is corrupted"),
    "empty shard": (lambda folder: os.truncate(folder / SHARD, 0), f"the shard {SHARD} is corrupted"),
    "corrupted header": (lambda folder: flip(folder / SHARD, 9), f"the shard {SHARD} is corrupted"),
    "renamed tensor": (
        lambda folder: only(folder / SHARD, without="layers.1.ffn.experts.3.w2.weight_packed"),
        "layers.1.ffn.experts.3.w2.weight_packed",
    ),
    "index: a tensor too many": (
        lambda folder: change_index(folder, lambda shard_of: shard_of.update(stranger=SHARD)),
        f"tensors that the index puts into {SHARD} but are not there: stranger",
    ),
    "index: a tensor too few": (
        lambda folder: change_index(folder, lambda shard_of: shard_of.pop("layers.1.attn.wo_a.weight")),
        f"tensors that are in {SHARD} but not by the index: layers.1.attn.wo_a.weight",
    ),
    "index: the wrong shard": (
        lambda folder: change_index(folder, lambda shard_of: shard_of.update({"layers.0.attn.wo_a.weight": SHARD})),
        "layers.0.attn.wo_a.weight",
    ),
    "index: outside": (
        lambda folder: change_index(folder, lambda shard_of: shard_of.update(x="../evil.safetensors")),
        "'../evil.safetensors', which is no safetensors file of this folder",
    ),
    "index: no names": (
        lambda folder: change_index(folder, lambda shard_of: shard_of.update(x=["a.safetensors"])),
        "which is no safetensors file of this folder",
    ),
    "index: no JSON": (lambda folder: (folder / INDEX).write_text("{"), f"{INDEX} is not JSON"),
    "index: empty": (lambda folder: (folder / INDEX).write_text("{}"), f"{INDEX} has no weight_map"),
    "no index": (lambda folder: (folder / INDEX).unlink(), f"holds neither {INDEX} nor"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_base_is_refused_and_nothing_is_left(
    how: str, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, complaint = BROKEN[how]
    damage(base)
    before = shape(base)
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(tmp_path / "out")]) == 1
    assert complaint in said(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "recipe"]
    assert shape(base) == before


@pytest.mark.parametrize("how", BROKEN)
def test_verify_finds_what_is_broken(how: str, base: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, complaint = BROKEN[how]
    damage(whole)
    assert any(complaint in finding for finding in findings(base, whole, capsys))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: flip(folder / SHARD, -1), f"the shard {SHARD} differs from the base's in layers.1.attn.wo_a.w"),
        (lambda folder: flip(folder / SHARD, 5000), f"the shard {SHARD} differs from the base's in layers.1.ffn.exp"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: shutil.copy(folder / SHARD, folder / "more.safetensors"), "more.safetensors is no shard of"),
        (
            lambda folder: (folder / INDEX).write_text((folder / INDEX).read_text().replace('e": 8', 'e": 9')),
            "total_size",
        ),
    ],
)  # fmt: skip
def test_verify_finds_what_still_loads(
    damage: Callable[[Path], object], complaint: str, base: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(whole)
    (found,) = findings(base, whole, capsys)
    assert complaint in found


def test_verify_needs_a_sound_base(base: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(base / SHARD, 9)
    assert run(["checkpoint", "verify", str(base), str(whole)]) == 1
    assert f"the base is not sound: the shard {SHARD} is corrupted" in said(capsys)


def test_a_base_whose_total_size_is_wrong_is_only_noted(
    base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published checkpoints have that, and every loader ignores it."""
    for folder in (base, recipe):
        index = json.loads((folder / INDEX).read_text())
        index["metadata"]["total_size"] += 1
        (folder / INDEX).write_text(json.dumps(index))
    out = tmp_path / "out"
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(out)]) == 0
    assert "note: the index's total_size is" in capsys.readouterr().out
    assert findings(base, out, capsys) == []


def test_a_config_of_another_base_is_refused(
    base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (base / "config.json").read_bytes().replace(b'"n_routed_experts": 256', b'"n_routed_experts": 128')
    (base / "config.json").write_bytes(config)
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(tmp_path / "out")]) == 1
    assert "differs from the base's in n_routed_experts" in said(capsys)
    assert run(["checkpoint", "materialize", str(base), str(base), str(tmp_path / "out")]) == 1
    assert "it is not converted" in said(capsys)


@pytest.mark.parametrize("verb", ["convert", "materialize"])
def test_nothing_is_written_over(
    verb: str, base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    between = [] if verb == "convert" else [str(recipe)]
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    for out, complaint in ((taken, "is there already"), (taken / "thesis.txt", "is there already"),
                           (base, "is in the base itself"), (base / "sub", "is in the base itself")):  # fmt: skip
        before = shape(tmp_path)
        assert run(["checkpoint", verb, str(base), *between, str(out)]) == 1
        assert complaint in said(capsys)
        assert shape(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert run(["checkpoint", verb, str(base), *between, str(tmp_path / "empty")]) == 0


def test_converting_twice_is_refused(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoint", "convert", str(recipe), str(tmp_path / "again")]) == 1
    assert "it is already converted" in said(capsys)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "/nowhere", "/out"],
        ["convert", ".", "/out", "--tensor-parallel", "0"],
        ["materialize", "/nowhere", ".", "/out"],
        ["verify", ".", "/nowhere"],
        ["verify", ".", "."],
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["checkpoint", *arguments]) == 2
    said(capsys)


def checkpoint(*arguments: str | Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in which no file may grow above `limit` bytes."""

    def cap() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "gateway", "checkpoint", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=cap, check=False)


def test_a_copy_that_cannot_be_finished_is_gone_on_with(
    base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = base / "model-00004-of-00004.safetensors"
    names = json.loads((base / INDEX).read_text())["weight_map"]
    write_shard(big, {name: 40_000 for name, shard in names.items() if shard == big.name}, random.Random(4))
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    refused = checkpoint("materialize", base, recipe, out, "--copy", limit=100_000)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"prefixgate: {out} could not be finished: the file is larger than may be written")
    assert f"{partial} holds what is whole: run it again to go on" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not out.exists()
    kept = {name: inode for name, (_, inode) in shape(partial).items()}
    assert sorted(kept) == [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3)]
    (partial / ".model-00004-of-00004.safetensors.part").write_bytes(b"cut off")
    flip(partial / SHARD, 7000)  # its time of change tells
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(out), "--copy"]) == 0
    assert "2 files kept from the run before" in capsys.readouterr().out
    now = shape(out)
    assert {name: now[name][1] for name in kept if name != SHARD} == {n: i for n, i in kept.items() if n != SHARD}
    assert findings(base, out, capsys) == []
    assert not partial.exists()


@pytest.mark.slow
def test_killed_at_any_time_it_leaves_no_folder_and_goes_on(base: Path, recipe: Path, tmp_path: Path) -> None:
    names = json.loads((base / INDEX).read_text())["weight_map"]
    for shard in sorted(set(names.values())):
        tensors = {name: 2_000_000 for name, home in names.items() if home == shard}
        write_shard(base / shard, tensors, random.Random(1))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gateway", "checkpoint", "materialize", base, recipe, out, "--copy"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("out.partial/.*.part")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert out.exists() is (process.returncode == 0)
    if not out.exists():
        assert run(["checkpoint", "materialize", str(base), str(recipe), str(out), "--copy"]) == 0
    assert run(["checkpoint", "verify", str(base), str(out)]) == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_folder_of_other_things_is_not_gone_on_with(
    base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("precious")
    assert run(["checkpoint", "materialize", str(base), str(recipe), str(tmp_path / "out")]) == 1
    assert "holds thesis.txt, which is not of this checkpoint" in said(capsys)
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "precious"


def test_two_runs_do_not_share_a_folder(
    base: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.partial").mkdir()
    descriptor = os.open(tmp_path / "out.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    arguments = ["checkpoint", "materialize", str(base), str(recipe), str(tmp_path / "out")]
    assert run(arguments) == 1
    assert "another run works in" in said(capsys)
    os.close(descriptor)
    assert run(arguments) == 0


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode != 0,
    reason="no file systems can be mounted here",
)
class TestFileSystems:
    """Real ones, mounted for one command only."""

    def on(self, options: str, tmp_path: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The command with `tmp_path/disk` a file system of its own; what is left there is listed at the end."""
        (tmp_path / "disk").mkdir(exist_ok=True)
        words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "gateway", "checkpoint", *arguments))
        disk = tmp_path / "disk"
        script = f"mount -t tmpfs -o {options} none {disk} && {words}; status=$?; find {disk} -mindepth 1; exit $status"
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
        )

    @pytest.mark.slow
    def test_another_file_system_gets_copies(self, base: Path, recipe: Path, tmp_path: Path) -> None:
        done = self.on("size=10m", tmp_path, "materialize", base, recipe, tmp_path / "disk" / "out")
        assert done.returncode == 0, done.stderr
        assert "9 files copied" in done.stdout
        assert "note: shards were copied" in done.stdout

    @pytest.mark.slow
    def test_too_little_room_is_seen_before_anything_is_copied(self, base: Path, recipe: Path, tmp_path: Path) -> None:
        done = self.on("size=40k", tmp_path, "materialize", base, recipe, tmp_path / "disk" / "out")
        assert done.returncode == 1
        assert "the disk is too full" in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize(
        "options", ["size=10m,nr_inodes=4", pytest.param("size=10m,nr_inodes=6", marks=pytest.mark.slow)]
    )
    def test_a_disk_that_fills_up_meanwhile(self, options: str, base: Path, recipe: Path, tmp_path: Path) -> None:
        """Room for bytes but none for names: it is full in the middle."""
        out = tmp_path / "disk" / "out"
        done = self.on(options, tmp_path, "materialize", base, recipe, out)
        assert done.returncode == 1
        assert f"prefixgate: {out} could not be finished: the disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        left = done.stdout.splitlines()
        assert left
        assert all(line.startswith(f"{out}.partial") and not line.endswith(".part") for line in left)

    @pytest.mark.slow
    @pytest.mark.parametrize("options", ["size=4k", "size=10m,nr_inodes=3"])
    def test_convert_to_a_full_disk_leaves_nothing(self, options: str, base: Path, tmp_path: Path) -> None:
        done = self.on(options, tmp_path, "convert", base, tmp_path / "disk" / "out")
        assert done.returncode == 1
        assert "cannot be written: the disk is full" in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize("verb", ["materialize", pytest.param("convert", marks=pytest.mark.slow)])
    def test_a_read_only_target(self, verb: str, base: Path, recipe: Path, tmp_path: Path) -> None:
        between = [] if verb == "convert" else [recipe]
        done = self.on("ro", tmp_path, verb, base, *between, tmp_path / "disk" / "new" / "out")
        assert done.returncode == 1
        assert "the file system is read-only" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
