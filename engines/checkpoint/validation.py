"""A second opinion: the config model of compressed-tensors, where that is installed; imports it when asked."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from engines.checkpoint.conversion import quantization_of
from engines.checkpoint.refusal import CheckpointError

_PACKAGE: Final = "compressed-tensors"


def validated(config: bytes) -> str | None:
    """The version of compressed-tensors that accepted the quantization config, None where it is not installed.

    Raises CheckpointError with its reason if it did not.
    """
    try:
        installed = version(_PACKAGE)
        model = importlib.import_module("compressed_tensors.quantization").QuantizationConfig
    except (PackageNotFoundError, ImportError):
        return None
    try:
        model.model_validate(quantization_of(config))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"compressed-tensors {installed} does not accept the config: {reason}") from error
    return installed
