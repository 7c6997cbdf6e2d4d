"""Runs in the environment of The Well's package: reads dataset folders with it and writes down what it gives.

python the_well_reader.py OUT DATASET…      writes OUT/NAME.npz and OUT/NAME.json for each
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from the_well.data.datasets import DeltaWellDataset, WellDataset
from the_well.data.normalization import RMSNormalization, ZScoreNormalization


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The last sample of the train split, plain and normalised in three ways, and the valid split's metadata."""
    window = {
        "path": str(folder),
        "well_split_name": "train",
        "n_steps_input": 2,
        "n_steps_output": 1,
        "normalize_time_grid": False,
    }
    kinds = {
        "plain": WellDataset(**window),
        "z_score": WellDataset(**window, use_normalization=True, normalization_type=ZScoreNormalization),
        "rms": WellDataset(**window, use_normalization=True, normalization_type=RMSNormalization),
        "delta": DeltaWellDataset(**window, use_normalization=True, normalization_type=ZScoreNormalization),
    }
    arrays = {}
    for kind, dataset in kinds.items():
        for key, values in dataset[len(dataset) - 1].items():
            arrays[f"{kind}/{key}"] = values.numpy()
    metadata = asdict(WellDataset(**{**window, "well_split_name": "valid"}).metadata)
    return arrays, {"num_samples": len(kinds["plain"]), "metadata": metadata}


def main(out: Path, folders: list[Path]) -> None:
    for folder in folders:
        arrays, facts = read(folder)
        np.savez(out / f"{folder.name}.npz", **{key.replace("/", "."): values for key, values in arrays.items()})
        (out / f"{folder.name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
