"""A trained model that is loaded onto a GPU forecasts what it does on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.prepared import prepare
from tests.unit.test_export import fields_of, written
from trainer.pretrained import load_dynamics
from trainer.world import World


@pytest.mark.usefixtures("gpu")
def test_a_model_forecasts_on_a_gpu_as_on_the_cpu(gpu: World, tmp_path: Path) -> None:
    data = prepare(tmp_path / "data", lengths=(12, 8), splits=("train", "valid"), resolution=(8, 8))
    config, run = written(tmp_path, data, "dynamics", "standard", "conditions: [time_step]")
    subprocess.run([sys.executable, "-m", "trainer", "train", str(config)], check=True, timeout=300)
    fields, told = fields_of(data, 3), {"time_step": 0.5}
    there, here = (load_dynamics(str(run), device=device) for device in (gpu.device, "cpu"))
    expected = here.forecast(fields, 2, dataset="waves", conditions=told)
    for given in (fields, fields.to(gpu.device)):
        found = there.forecast(given, 2, dataset="waves", conditions=told)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-5)
    latents = there.tokeniser.encode(fields, dataset="waves")
    decoded = there.tokeniser.decode(latents).cpu()
    again = here.tokeniser.decode(here.tokeniser.encode(fields, dataset="waves"))
    torch.testing.assert_close(decoded, again, rtol=1e-4, atol=1e-5)
