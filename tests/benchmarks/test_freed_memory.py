"""What keeping freed memory saves in a training step on a CPU: run as `python -m tests.benchmarks.test_freed_memory`.

Compares process CPU seconds of the same forward and backward, in two fresh processes, one with and one without
`trainer.world.keep_freed_memory`. As an ordinary test it runs once and asserts the losses alone.
"""

import json
import statistics
import subprocess
import sys

STEPS = 12
PROGRAM = """
import json, resource, sys, time
import torch
from trainer.world import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory(torch.device("cpu"))
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.SiLU()] * 4
model, x = torch.nn.Sequential(*layers), torch.randn(16, 32, 64, 64)
seconds, faults, losses = [], [], []
for _ in range(int(sys.argv[2])):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    loss = model(x).square().mean()
    loss.backward()
    seconds.append(time.process_time() - start)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    losses.append(loss.item())
print(json.dumps({"seconds": seconds, "faults": faults, "losses": losses}))
"""


def measure(memory: str, steps: int) -> dict[str, list[float]]:
    command = [sys.executable, "-c", PROGRAM, memory, str(steps)]
    result: dict[str, list[float]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return result


def test_keeping_freed_memory_changes_no_number() -> None:
    kept, plain = measure("keep", 2), measure("plain", 2)
    assert kept["losses"] == plain["losses"]


if __name__ == "__main__":
    results = {memory: measure(memory, STEPS) for memory in ("plain", "keep")}
    for memory, result in results.items():
        median = {name: statistics.median(result[name][2:]) for name in ("seconds", "faults")}
        print(f"{memory:6s} {median['seconds']:.4f} CPU seconds a step, {median['faults']:.0f} page faults a step")
    ratio = statistics.median(results["keep"]["seconds"][2:]) / statistics.median(results["plain"]["seconds"][2:])
    print(f"ratio {ratio:.2f}")
