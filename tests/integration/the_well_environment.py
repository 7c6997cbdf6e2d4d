"""Where The Well's own reader and baselines run, an environment made once and reused: `.venv-the-well` beside `.venv`.

The package asks for an older fsspec than ours, so it cannot live in the main environment. This one holds only the two
packages that differ and those of its FNO, and takes all others (torch, h5py, numpy, einops, yaml) from the interpreter
that makes it.

    python -m tests.integration.the_well_environment      makes it and prints the path of its interpreter
"""

from pathlib import Path

from tests.integration.own_environment import EnvironmentMissingError, python_with

__all__ = ["EnvironmentMissingError", "the_well_python"]

READER = ("the-well==1.2.0", "fsspec==2024.10.0")
FNO = ("neuraloperator==0.3.0", "tensorly==0.10.0", "tensorly-torch==0.5.0", "opt-einsum==3.4.0", "scipy==1.17.1")
REQUIREMENTS = READER + FNO


def the_well_python() -> Path:
    """The interpreter that can import `the_well`. Makes the environment if it is absent or of other versions."""
    return python_with(".venv-the-well", REQUIREMENTS)


if __name__ == "__main__":
    print(the_well_python())
