"""Runs in the environment of The Well's package: one of its baselines, trained for a time and scored.

    python -m tests.benchmarks.the_well_baselines WINDOWS.pt MODEL SECONDS RATE BATCH [small]

prints a JSON object. Models and sizes are those of The Well's benchmark (Ohana et al. 2024): the whole next frame from
the four before it, mean square error. What their packages import and these models never use is absent here.
"""

import json
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.one_step import shuffled, train, vrmse_of

UNUSED = {
    "wandb": (),
    "torch_harmonics": ("RealSHT", "InverseRealSHT"),
    "torch_harmonics.examples": ("ShallowWaterSolver",),
    "timm": (),
    "timm.models": (),
    "timm.models.layers": ("DropPath",),
    "huggingface_hub": ("PyTorchModelHubMixin",),
}


def leave_out() -> None:
    """Empty modules for `UNUSED`, and the package of models without what its `__init__` imports."""
    for name, classes in UNUSED.items():
        module = ModuleType(name)
        for one in classes:
            setattr(module, one, type(one, (), {}))
        sys.modules[name] = module
    import the_well

    models = ModuleType("the_well.benchmark.models")
    models.__path__ = [f"{the_well.__path__[0]}/benchmark/models"]
    for name in ("the_well.benchmark", "the_well.benchmark.models"):
        sys.modules[name] = models


def make(name: str, *, history: int, channels: int, space: tuple[int, ...], is_small: bool) -> nn.Module:
    sizes: dict[str, Any] = {"dim_in": history * channels, "dim_out": channels, "n_spatial_dims": len(space)}
    sizes["spatial_resolution"] = space
    if name == "fno":
        from the_well.benchmark.models.fno import FNO

        modes, width = (4, 8) if is_small else (16, 128)
        return FNO(**sizes, modes1=modes, modes2=modes, hidden_channels=width)
    from the_well.benchmark.models.unet_convnext import UNetConvNext

    width, blocks = (8, 1) if is_small else (42, 2)
    return UNetConvNext(**sizes, init_features=width, blocks_per_stage=blocks)


def main(path: str, name: str, seconds: float, rate: float, batch: int, is_small: bool) -> dict[str, Any]:
    windows = torch.load(path, weights_only=True)
    history, channels, *space = windows["train"].shape[1:]
    torch.manual_seed(0)
    model = make(name, history=history - 1, channels=channels, space=tuple(space), is_small=is_small)

    def predict(part: Tensor) -> Tensor:
        return model(part[:, :-1].flatten(1, 2))

    def loss_of(part: Tensor) -> Tensor:
        return (predict(part) - part[:, -1]).square().mean()

    batches = shuffled(windows["train"], size=batch, seed=0)
    steps = train(model, loss_of, batches, seconds=seconds, rate=rate)
    scores = {split: vrmse_of(predict, windows[split]) for split in ("valid", "test")}
    return {"parameters": sum(p.numel() for p in model.parameters()), "steps": steps, **scores}


if __name__ == "__main__":
    torch.set_num_threads(1)
    leave_out()
    path, name, seconds, rate, batch, *more = sys.argv[1:]
    print(json.dumps(main(path, name, float(seconds), float(rate), int(batch), more == ["small"])))
