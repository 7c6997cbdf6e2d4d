"""Compiled blocks compute what they are written to: the loss and every gradient, recomputed or not."""

from collections.abc import Callable

import pytest
import torch

from tests.unit.batches import make_batch
from tests.unit.test_stages import COARSE, FINE, dynamics_stage, tokeniser_stage
from trainer.config.schema import EngineConfig
from trainer.engine.compiled import compile_parts, parts_to_compile
from trainer.engine.recompute import recompute
from trainer.errors import RefusedError
from trainer.interfaces import Stage
from trainer.models.outermost import outermost

BOUND = 1e-5
"""Relative: fused operators round otherwise."""

pytestmark = pytest.mark.filterwarnings("ignore")  # what PyTorch's compiler says of PyTorch


def learn(stage: Stage) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradients by name."""
    loss = stage.module(make_batch()).loss
    loss.backward()
    return loss.item(), {
        name: weight.grad for name, weight in stage.module.named_parameters() if weight.grad is not None
    }


def compiled(stage: Stage, *, recomputes: bool) -> Stage:
    compile_parts(parts_to_compile(stage))
    if recomputes:
        recompute(outermost(stage.module, tuple(stage.block_classes.values())))
    return stage


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("make", [lambda: tokeniser_stage(FINE), lambda: tokeniser_stage(COARSE), dynamics_stage])
def test_losses_and_gradients_are_those_of_blocks_as_written(make: Callable[[], Stage], recomputes: bool) -> None:
    expected_loss, expected = learn(make())
    loss, gradients = learn(compiled(make(), recomputes=recomputes))
    assert loss == pytest.approx(expected_loss, rel=BOUND)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=BOUND * expected[name].abs().max().item())


def test_names_stay_and_an_evaluation_runs_as_written() -> None:
    written, batch = tokeniser_stage(FINE), make_batch()
    stage = compiled(tokeniser_stage(FINE), recomputes=False)
    assert stage.module.state_dict().keys() == written.module.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(stage.module(batch, predict=True), written.module(batch, predict=True))


def test_weights_that_are_gathered_inside_of_blocks_are_refused() -> None:
    assert EngineConfig(micro_batch_size=1, compile=True, zero_stage=2).compile
    with pytest.raises(ValueError, match="zero_stage 3 gathers them; use zero_stage 2"):
        EngineConfig(micro_batch_size=1, compile=True, zero_stage=3)


def test_a_machine_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(RefusedError, match="no C\\+\\+ compiler was found; install g\\+\\+"):
        compiled(tokeniser_stage(FINE), recomputes=False)
