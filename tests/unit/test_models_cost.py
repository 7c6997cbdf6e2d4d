"""Costs of a model against products written out by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.models.blocks import Attention
from trainer.models.cost import count_flops, count_parameters
from trainer.models.flexible_conv import CausalConv
from trainer.models.processor import Processor, ProcessorShape
from trainer.stages.build import build_stage

PERIODIC = ("periodic", "periodic")


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *(("tokeniser/small", 9), ("tokeniser/base", 34), ("tokeniser/large", 149)),
        *(("dynamics/small", 45), ("dynamics/base", 110), ("dynamics/large", 1306)),
    ],
)
def test_the_sizes_are_what_their_files_say(name: str, millions: int) -> None:
    config = load_yaml(Path("configs", f"{name}.yaml"), RunConfig)
    names = ("density", "energy", "momentum_x", "momentum_y", "pressure")
    with torch.device("meta"):
        stage = build_stage(config.stage, field_names=names, space_rank=2, window_frames=17)
    assert round(sum(parameter.numel() for parameter in stage.module.parameters()) / 1e6) == millions


def test_parameters_are_counted_by_part() -> None:
    parts = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2, bias=False)})
    assert count_parameters(parts) == {"first": 16, "second": 8}


def test_flops_of_a_causal_convolution_are_two_for_each_weight_and_position() -> None:
    with torch.device("meta"):
        convolution = CausalConv((3, 5), (2, 4, 4))
        fields = torch.empty(2, 3, 3, 16, 8)
        flops = count_flops(lambda: convolution(fields, (1, 2, 2), (PERIODIC, PERIODIC)))
    assert flops == 2 * (3 * 5 * 2 * 4 * 4) * (2 * 3 * 8 * 4)


def test_flops_of_attention_count_projections_scores_and_mixing() -> None:
    rows, positions, channels = 2, 6, 8
    with torch.device("meta"):
        attention = Attention(channels, 2)
        x, angles = torch.empty(rows, positions, channels), torch.empty(positions, 2)
        flops = count_flops(lambda: attention(x, angles, False))
    projections = 2 * 4 * channels * channels * rows * positions
    assert flops == projections + 2 * 2 * positions * positions * channels * rows


def test_flops_of_a_processor_are_those_of_its_products_written_out() -> None:
    batch, time, size, latent_channels, width, hidden, depth = 2, 3, (4, 5), 6, 8, 12, 2
    shape = ProcessorShape(width=width, depth=depth, num_heads=2, feed_forward=hidden)
    with torch.device("meta"):
        processor = Processor(latent_channels=latent_channels, shape=shape)
        latents = torch.empty(batch, time, latent_channels, *size)
        flops = count_flops(lambda: processor(latents, (PERIODIC, PERIODIC)))
    places = size[0] * size[1]
    projections = 2 * 4 * width**2 + 3 * width * hidden
    scores_and_mixing = 2 * (time + places) * width
    ends = 2 * latent_channels * width
    assert flops == 2 * batch * time * places * (depth * (projections + scores_and_mixing) + ends)
