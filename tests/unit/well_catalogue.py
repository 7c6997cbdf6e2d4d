"""All datasets of The Well in miniature: the axes, grids, fields, boundaries and parameters of each, on a few points.

From the dataset pages and files of The Well 1.2. The names of groups and attributes are theirs; the values are random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep.contract.fields import Boundary
from tests.unit.tiny_well import Expected, TinyBoundary, TinyField, write_file

OPEN, WALL, PERIODIC = Boundary.OPEN, Boundary.WALL, Boundary.PERIODIC
Sides = tuple[Boundary, Boundary]
BOTH_OPEN, BOTH_WALL, BOTH_PERIODIC = (OPEN, OPEN), (WALL, WALL), (PERIODIC, PERIODIC)

PLANE: Mapping[str, int] = {"x": 4, "y": 6}
CUBE: Mapping[str, int] = {"x": 3, "y": 4, "z": 5}


@dataclass(frozen=True)
class Miniature:
    """One dataset, and what a reader must find in it."""

    name: str
    scalars: Sequence[str]
    """Fields of rank 0, and so on."""
    vectors: Sequence[str]
    sides: Sequence[Sides]
    tensors: Sequence[str] = ()
    constants: Sequence[TinyField] = ()
    axes: Mapping[str, int] = field(default_factory=lambda: PLANE)
    boundaries: Sequence[TinyBoundary] | None = None
    """None: one group for each axis, named like `x_periodic`, that covers both of its ends."""
    grid_type: str = "cartesian"
    parameters: Sequence[str] = ()
    steps: Sequence[int] = (3, 3)
    """Of each file."""
    frame_intervals: Sequence[float] = (0.1, 0.1)
    """Of each file."""
    coordinates: Mapping[str, Any] = field(default_factory=dict)
    num_trajectories: int = 2
    num_warnings: int = 0

    def write(self, folder: Path) -> dict[str, Expected]:
        """Two train files and one of each other split; gives what each contains."""
        expected = {}
        paths = ("train/a.hdf5", "train/b.hdf5", "valid/a.hdf5", "test/a.hdf5")
        for seed, (path, number) in enumerate(zip(paths, (0, 1, 0, 0), strict=True)):
            expected[path] = write_file(
                folder / "data" / path,
                num_trajectories=self.num_trajectories,
                num_steps=self.steps[number],
                axes=dict(self.axes),
                fields=self._fields(),
                boundaries=self._boundaries(),
                scalars={name: 1.5 + number + position for position, name in enumerate(self.parameters)},
                times=self.frame_intervals[number] * np.arange(self.steps[number]),
                grid_type=self.grid_type,
                seed=seed,
                edit=self._set_coordinates,
            )
        return expected

    @property
    def channels(self) -> list[str]:
        """Scalars, then vectors by component, then tensors row by row."""
        names = list(self.scalars)
        names += [f"{name}_{axis}" for name in self.vectors for axis in self.axes]
        return names + [f"{name}_{row}{column}" for name in self.tensors for row in self.axes for column in self.axes]

    def _fields(self) -> list[TinyField]:
        ranks = enumerate((self.scalars, self.vectors, self.tensors))
        return [TinyField(name, rank=rank) for rank, names in ranks for name in names] + list(self.constants)

    def _boundaries(self) -> Sequence[TinyBoundary]:
        if self.boundaries is not None:
            return self.boundaries
        pairs = zip(self.axes, self.sides, strict=True)
        return [TinyBoundary(f"{axis}_{low}", (axis,), low.upper()) for axis, (low, _) in pairs]

    def _set_coordinates(self, file: h5py.File) -> None:
        for axis, values in self.coordinates.items():
            file["dimensions"][axis][...] = values


def _end(axis: str, size: int, kind: str, *, high: bool) -> TinyBoundary:
    mask = np.zeros(size, bool)
    mask[-1 if high else 0] = True
    return TinyBoundary(f"{axis}{'L' if high else '0'}_{kind}", (axis,), kind.upper(), mask)


def _acoustic(name: str) -> Miniature:
    """Each side in a group of its own; the material stands still and differs by trajectory."""
    return Miniature(
        name,
        scalars=("pressure",),
        vectors=("velocity",),
        constants=(TinyField("density", time_varying=False), TinyField("speed_of_sound", time_varying=False)),
        sides=((WALL, OPEN), (WALL, OPEN)),
        boundaries=[
            _end(axis, size, kind, high=high)
            for axis, size in PLANE.items()
            for kind, high in (("wall", False), ("open", True))
        ],
    )


def _staircase() -> TinyBoundary:
    """A wall inside the domain, by a mask of both axes: no side of the domain is wholly covered."""
    mask = np.zeros(tuple(PLANE.values()), bool)
    mask[1:3, :2] = True
    return TinyBoundary("xy_wall", ("x", "y"), "WALL", mask)


SUPERNOVA = ("density", "pressure", "temperature")
CHEBYSHEV = np.cos(np.pi * np.arange(6) / 5)

CATALOGUE = (
    _acoustic("acoustic_scattering_discontinuous"),
    _acoustic("acoustic_scattering_inclusions"),
    _acoustic("acoustic_scattering_maze"),
    Miniature(
        "active_matter",
        scalars=("concentration",),
        vectors=("velocity",),
        tensors=("D", "E"),
        sides=(BOTH_PERIODIC, BOTH_PERIODIC),
        parameters=("L", "zeta", "alpha"),
    ),
    Miniature(
        "convective_envelope_rsg",
        scalars=("density", "energy", "pressure"),
        vectors=("velocity",),
        axes={"r": 4, "theta": 3, "phi": 5},
        grid_type="spherical",
        sides=(BOTH_OPEN, BOTH_PERIODIC, BOTH_PERIODIC),
        coordinates={"r": np.logspace(1, 3, 4)},
    ),
    Miniature(
        "euler_multi_quadrants_openBC",
        scalars=("energy", "density", "pressure"),
        vectors=("momentum",),
        sides=(BOTH_OPEN, BOTH_OPEN),
        parameters=("gamma",),
    ),
    Miniature(
        "euler_multi_quadrants_periodicBC",
        scalars=("energy", "density", "pressure"),
        vectors=("momentum",),
        sides=(BOTH_PERIODIC, BOTH_PERIODIC),
        parameters=("gamma",),
    ),
    Miniature(
        "gray_scott_reaction_diffusion",
        scalars=("A", "B"),
        vectors=(),
        sides=(BOTH_PERIODIC, BOTH_PERIODIC),
        parameters=("F", "k"),
    ),
    Miniature(
        "helmholtz_staircase",
        scalars=("pressure_re", "pressure_im"),
        vectors=(),
        constants=(TinyField("mask", time_varying=False, sample_varying=False),),
        sides=(BOTH_OPEN, BOTH_OPEN),
        boundaries=[
            TinyBoundary("x_open_neumann", ("x",), "OPEN"),
            TinyBoundary("y_open_neumann", ("y",), "OPEN"),
            _staircase(),
        ],
        parameters=("omega",),
        num_warnings=4,
    ),
    *(
        Miniature(
            name,
            scalars=("density",),
            vectors=("magnetic_field", "velocity"),
            axes=CUBE,
            sides=(BOTH_PERIODIC,) * 3,
            parameters=("Ma", "Ms"),
        )
        for name in ("MHD_64", "MHD_256")
    ),
    Miniature(
        "planetswe",
        scalars=("height",),
        vectors=("velocity",),
        axes={"theta": 4, "phi": 8},
        grid_type="equiangular",
        sides=(BOTH_OPEN, BOTH_PERIODIC),
        num_trajectories=1,
    ),
    Miniature(
        "post_neutron_star_merger",
        scalars=("density", "internal_energy", "pressure", "temperature", "electron_fraction", "entropy"),
        vectors=("magnetic_field", "velocity"),
        axes={"log_r": 3, "theta": 2, "phi": 66},
        grid_type="spherical",
        sides=(BOTH_OPEN, BOTH_PERIODIC, BOTH_PERIODIC),
    ),
    Miniature(
        "rayleigh_benard",
        scalars=("buoyancy", "pressure"),
        vectors=("velocity",),
        sides=(BOTH_PERIODIC, BOTH_WALL),
        parameters=("Rayleigh", "Prandtl"),
        coordinates={"y": CHEBYSHEV},
    ),
    Miniature(
        "rayleigh_benard_uniform",
        scalars=("buoyancy", "pressure"),
        vectors=("velocity",),
        sides=(BOTH_PERIODIC, BOTH_WALL),
        parameters=("Rayleigh", "Prandtl"),
    ),
    Miniature(
        "rayleigh_taylor_instability",
        scalars=("density",),
        vectors=("velocity",),
        axes=CUBE,
        sides=(BOTH_PERIODIC, BOTH_PERIODIC, BOTH_WALL),
        parameters=("At",),
        frame_intervals=(0.1, 0.25),
    ),
    Miniature(
        "shear_flow",
        scalars=("tracer", "pressure"),
        vectors=("velocity",),
        sides=(BOTH_PERIODIC, BOTH_PERIODIC),
        parameters=("Rayleigh", "Schmidt"),
    ),
    *(
        Miniature(
            name,
            scalars=SUPERNOVA,
            vectors=("velocity",),
            axes=CUBE,
            sides=(BOTH_OPEN,) * 3,
            parameters=("Msun", "rho0", "Z", "T0"),
            frame_intervals=(0.1, 10.0),
        )
        for name in ("supernova_explosion_64", "supernova_explosion_128")
    ),
    Miniature(
        "turbulence_gravity_cooling",
        scalars=SUPERNOVA,
        vectors=("velocity",),
        axes=CUBE,
        sides=(BOTH_OPEN,) * 3,
        parameters=("rho0", "Z", "T0"),
    ),
    Miniature(
        "turbulent_radiative_layer_2D",
        scalars=("density", "pressure"),
        vectors=("velocity",),
        sides=(BOTH_PERIODIC, BOTH_OPEN),
        parameters=("tcool",),
    ),
    Miniature(
        "turbulent_radiative_layer_3D",
        scalars=("density", "pressure"),
        vectors=("velocity",),
        axes=CUBE,
        sides=(BOTH_PERIODIC, BOTH_PERIODIC, BOTH_OPEN),
        parameters=("tcool",),
    ),
    Miniature(
        "viscoelastic_instability",
        scalars=("pressure", "c_zz"),
        vectors=("velocity",),
        tensors=("C",),
        sides=(BOTH_PERIODIC, BOTH_WALL),
        boundaries=[
            TinyBoundary("x_periodic", ("x",), "PERIODIC"),
            TinyBoundary("y_wall_noslip", ("y",), "WALL"),
        ],
        parameters=("Re", "Wi", "beta", "epsilon", "Lmax"),
        steps=(2, 6),
    ),
)
