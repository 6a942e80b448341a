"""What only a real NVIDIA GPU can show; `make test-gpu` where there is one."""

import pytest
from conftest import CommandLine

WITHIN = 0.05
"""Between the energy counter and polled power times time, over windows of ten seconds."""


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_the_energy_counter_agrees_with_power_times_time(greenlab: CommandLine) -> None:
    result = greenlab(
        "-m",
        "model=resnet18,vgg16",
        "phase=train,inference",
        "batch_size=256",
        "hardware=cuda",
        "dataset=synthetic",
        "dataset.num_samples=50000",
        "phase.epochs=5",
        "phase.min_active_s=10",
        "idle.window_s=5",
        timeout_s=550,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    runs = greenlab.runs()
    assert len(runs) == 4
    for run in runs:
        metrics, tags = run.data.metrics, run.data.tags
        assert run.data.params["device"].startswith("cuda")
        assert tags["energy_source.gpu"] == "measured:nvml"
        assert metrics["power/mean_gpu_w"] == pytest.approx(
            metrics["power/polled_gpu_w"], rel=WITHIN
        )
        assert metrics["energy/net_gpu_j"] > 0
        assert "gpu_counter_against_power" not in tags.get("greenlab.doubts", "")


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_the_same_seed_gives_the_same_loss_curve_on_the_gpu(greenlab: CommandLine) -> None:
    settings = (
        "model=resnet18", "hardware=cuda", "phase.epochs=3", "idle.settle_s=0", "idle.window_s=1",
    )  # fmt: skip
    for _ in range(2):
        result = greenlab(*settings)
        assert result.returncode == 0, result.stdout + result.stderr
    first, second = (
        [one.outcome.loss for one in record.measurement.passes]
        for record in greenlab.records()
        if record.measurement is not None
    )
    assert first == second
