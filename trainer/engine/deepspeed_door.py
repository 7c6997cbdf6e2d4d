"""The one door to DeepSpeed: quiet, fast, and opened by its users alone (importing it takes 0.7 s)."""

import importlib
import logging
import sys
import warnings
from typing import Any


def import_deepspeed() -> Any:
    """The `deepspeed` module. `world.prepare_libraries` must have named the accelerator before the first call."""
    import deepspeed
    import deepspeed.ops
    import deepspeed.utils.nvtx

    # raised inside DeepSpeed, which still serves torch versions without the new names
    old_names = "`torch.distributed.(all_gather_into_tensor|reduce_scatter_tensor)` is deprecated"
    warnings.filterwarnings("ignore", message=old_names, category=FutureWarning)
    _log_to_stderr(logging.getLogger("DeepSpeed"))
    # On gloo DeepSpeed would compile an operator for tensor-parallel inference, 65 s of g++ at the first run and
    # 2 s of loading at each. Training never calls it, so it is told that no operator can be compiled here.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.nvtx.enable_nvtx = False  # ranges for a profiler at each of its thousands of calls a step
    _import_muon()
    return deepspeed


def _log_to_stderr(logger: logging.Logger) -> None:
    """Errors alone, and not among the results on stdout. Handlers that others have added stay as they are."""
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)


def _import_muon() -> None:
    """DeepSpeed imports its Muon to ask whether an optimiser is one, which makes torch.compile ready for kernels
    that are never called: 4.8 of the 5.7 seconds of `initialize`. Imported here without it."""
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    original = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = original
