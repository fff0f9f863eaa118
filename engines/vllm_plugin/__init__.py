"""What vLLM lacks to load DeepSeek-V4 checkpoints of compressed-tensors, added as a plugin of vLLM; patches vLLM.

vLLM calls `register` in each of its processes at start. Nothing is imported for it: each part is examined when vLLM
itself imports it, and mended only if it lacks something; other models never notice. This folder is a distribution of
its own, `prefixgate-vllm`, and imports nothing of this project.
"""

import logging
from collections.abc import Callable
from types import ModuleType

from .importing import AfterImport
from .mends import MENDS

logger = logging.getLogger("vllm.plugins.prefixgate")  # below vLLM's own, so that its log shows it
_after_import = AfterImport()


def register() -> None:
    """The plugin's entry point; calling it again changes nothing."""
    for name, mend in MENDS.items():
        _after_import.do(name, _safely(mend))
    logger.info("prefixgate: DeepSeek-V4's load patches wait for the modules that may lack them")


def _safely(mend: Callable[[ModuleType], str]) -> Callable[[ModuleType], None]:
    """Whatever goes wrong here must not keep vLLM from starting: it may not even need the mend."""

    def act(module: ModuleType) -> None:
        try:
            told = mend(module)
        except Exception as error:
            reason = " ".join(str(error).split())
            logger.warning("prefixgate: %s is left as it is: %s: %s", module.__name__, type(error).__name__, reason)
        else:
            if told:
                logger.info("prefixgate: %s: %s", module.__name__, told)

    return act
