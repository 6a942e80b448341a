"""How near inference is to what the machine can do: its arithmetic, and its way to memory.

    python -m benchmarks.limits

The machine's limits are measured: the fastest matrix product in float32, and the fastest copy of
more than its caches hold. A forward pass needs two operations for each of its exact MACs, and moves
at least what its layers return, once out and once in again (`activation_bytes`, twice), and its
weights. The greater of the two times that follow is the least that it can take; what stands beside
it is how long it takes, in the loop's own layout and allocator, on batches that lie ready. Neither
limit can be reached: convolutions are not matrix products, and what fits the caches need not move.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.results import Figure, open_parser, report
from benchmarks.training_loop import BATCH_SIZE, SAMPLES, configure
from greenlab.model_profile import profile_model
from greenlab.workload import build_workload

SIDE = {"cpu": 1536, "cuda": 8192}
COPIED_BYTES = 2**29
REPETITIONS = 5


def fastest_s(work: Callable[[], object], device: torch.device) -> float:
    """Of several goes."""

    def take() -> float:
        began_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began_s

    take()
    return min(take() for _ in range(2 * REPETITIONS))


def flops_per_s(device: torch.device) -> float:
    """Of a square matrix product in float32."""
    side = SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device)
    return 2 * side**3 / fastest_s(lambda: left @ right, device)


def bytes_per_s(device: torch.device) -> float:
    """Read and written, of a copy."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / fastest_s(lambda: target.copy_(source), device)


def examine(model: str, device: torch.device, flops: float, bandwidth: float) -> list[Figure]:
    """One model's forward pass on a full batch."""
    workload = build_workload(configure(model, BATCH_SIZE, []), device)
    network = workload.model.eval()
    profile = profile_model(network, workload.sample)
    images, _ = next(iter(workload.test))
    assert profile.activation_bytes is not None
    by_flops_s = 2 * profile.macs_exact * BATCH_SIZE / flops
    moved = 2 * profile.activation_bytes * BATCH_SIZE + profile.parameter_bytes
    by_bytes_s = moved / bandwidth
    with torch.inference_mode():
        network(images)
        taken_s = []
        for _ in range(REPETITIONS):
            began_s = time.perf_counter()
            network(images)
            workload.synchronise()
            taken_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(taken_s)
    return [
        Figure(name=f"{model}, forward pass", unit="ms", values=[1000 * one for one in taken_s]),
        Figure(name=f"{model}, by arithmetic", unit="ms at least", values=[1000 * by_flops_s]),
        Figure(name=f"{model}, by memory", unit="ms at least", values=[1000 * by_bytes_s]),
        Figure(
            name=f"{model}, reached",
            unit="% of the nearer limit",
            values=[100 * max(by_flops_s, by_bytes_s) / median_s],
        ),
    ]


def main() -> int:
    """Measure the limits, then every model against them."""
    parser = open_parser("limits", __doc__)
    options = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    flops, bandwidth = flops_per_s(device), bytes_per_s(device)
    found = [
        Figure(name="matrix product", unit="GFLOP/s", values=[flops / 1e9]),
        Figure(name="copy", unit="GB/s", values=[bandwidth / 1e9]),
    ]
    for model in SAMPLES:
        found += examine(model, device, flops, bandwidth)
    return report(f"Limits of a batch of {BATCH_SIZE} in inference", found, options.json)


if __name__ == "__main__":
    sys.exit(main())
