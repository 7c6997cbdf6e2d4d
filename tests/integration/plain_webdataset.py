"""Tars as a plain webdataset session reads them, without code of ours."""

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
import webdataset


def samples_of(folder: Path) -> list[dict[str, Any]]:
    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    with warnings.catch_warnings():
        # webdataset 1.0.2 leaves its streams to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", pytest.PytestUnraisableExceptionWarning)
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode())
        gc.collect()
    return samples
