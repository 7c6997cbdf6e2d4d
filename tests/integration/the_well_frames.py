"""Runs in the environment of The Well's package: every frame of a train split as its reader gives it, and statistics.

python the_well_frames.py OUT DATASET…      writes OUT/NAME.npz for each
"""

import sys
from pathlib import Path

import numpy as np
import torch
from the_well.data.datasets import WellDataset


def read(folder: Path) -> dict[str, np.ndarray]:
    """Frames of all trajectories one after the other, what comes with them, and moments by torch in float64."""
    dataset = WellDataset(
        path=str(folder), well_split_name="train", n_steps_input=1, n_steps_output=1, normalize_time_grid=False
    )
    pairs = [dataset[number] for number in range(len(dataset))]
    files = zip(dataset.n_steps_per_trajectory, dataset.n_trajectories_per_file, strict=True)
    runs = [length for length, count in files for _ in range(count)]
    trajectories, position = [], 0
    for length in runs:
        window = pairs[position : position + length - 1]
        trajectories.append(
            torch.cat([pair["input_fields"] for pair in window] + [window[-1]["output_fields"]]).double()
        )
        position += length - 1
    assert position == len(pairs)
    values = torch.cat(trajectories).flatten(0, -2)
    deltas = torch.cat([run.diff(dim=0) for run in trajectories]).flatten(0, -2)
    found = {"frames": torch.cat(trajectories).numpy(), "lengths": np.array(runs)}
    for name, part in (("", values), ("_delta", deltas)):
        found[f"mean{name}"] = part.mean(0).numpy()
        found[f"std{name}"] = part.std(0, unbiased=False).numpy()
        found[f"rms{name}"] = part.square().mean(0).sqrt().numpy()
    last = pairs[-1]
    optional = ("boundary_conditions", "constant_scalars", "constant_fields", "space_grid", "output_time_grid")
    return found | {name: last[name].numpy() for name in optional if name in last}


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        np.savez(Path(sys.argv[1]) / f"{Path(argument).name}.npz", **read(Path(argument)))
