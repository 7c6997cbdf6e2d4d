"""All systems that can be simulated, by name: the name is also the dataset folder's."""

from data_prep.simulate.case import System
from data_prep.simulate.gray_scott import GRAY_SCOTT
from data_prep.simulate.quadrants import QUADRANTS
from data_prep.simulate.shear_flow import SHEAR_FLOW

SYSTEMS: dict[str, System] = {system.name: system for system in (*QUADRANTS, SHEAR_FLOW, GRAY_SCOTT)}
