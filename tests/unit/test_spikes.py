"""What is told of a loss that jumps."""

import io

from trainer.interfaces import Report
from trainer.metrics.spikes import SpikeSink


def said(losses: list[float]) -> str:
    stream = io.StringIO()
    sink = SpikeSink("run", stream=stream)
    for number, loss in enumerate(losses, start=1):
        sink.publish(Report(10 * number, 0, 0.0, scalars={"loss": loss}, totals={}))
    return stream.getvalue()


def test_a_loss_far_above_the_usual_is_told() -> None:
    assert said([1.0, 1.1, 0.9, 1.0, 1.0, 5.0]).startswith("[run] loss spike: 5 in steps 51 to 60, 5.0 times the")


def test_noise_and_a_falling_loss_are_not() -> None:
    assert said([3.0, 2.0, 1.0, 1.5, 0.5, 0.9, 1.4, 0.6]) == ""


def test_a_spike_among_few_reports_is_not_known_as_one() -> None:
    assert said([1.0, 1.0, 9.0]) == ""


def test_reports_without_a_loss_count_for_nothing() -> None:
    sink = SpikeSink("run", stream=io.StringIO())
    sink.publish(Report(1, 0, 0.0, scalars={"valid/vrmse": 1.0}, totals={}))
