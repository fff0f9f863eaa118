"""A conversion put on disk: the config alone, or a folder with all that goes with it but the weights; does I/O."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from engines.checkpoint.refusal import CheckpointError
from engines.checkpoint.shards import CONFIG, companions, read_small
from engines.checkpoint.writing import failures_said, refuse_place, sync_folder, write_whole

_OTHER_TOOLS: Final = "hf_quant_config.json"


def config_bytes(base: Path) -> bytes:
    """The config of a checkpoint folder, or the config itself. Raises CheckpointError."""
    if not base.is_dir():
        return read_small(base)
    if not (base / CONFIG).exists():
        raise CheckpointError(f"{base} holds no {CONFIG}")
    data = read_small(base / CONFIG)
    if b"quantization_config" not in data and (base / _OTHER_TOOLS).exists():
        raise CheckpointError(f"{base} is quantised by ModelOpt ({_OTHER_TOOLS}): only compressed-tensors becomes W4A8")
    return data


def write_recipe(base: Path, out: Path, config: bytes) -> list[str]:
    """Write the config to `out` if that is named like a file, else a folder of it and the base's small files.

    Names of what was written. Raises CheckpointError, and leaves nothing behind if it cannot be finished.
    """
    refuse_place(out, base)
    with failures_said(f"{out} cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".json":
            write_whole(out, config)
            return [out.name]
        names = companions(base) if base.is_dir() else []
        making = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            making.chmod(0o755)
            for name in names:
                (making / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base / name, making / name)
            write_whole(making / CONFIG, config)
            making.rename(out)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        sync_folder(out.parent)
    return [CONFIG, *names]
