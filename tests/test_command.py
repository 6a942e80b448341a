"""The command line from outside: `python -m greenlab …` as a subprocess, then MLflow read back."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, CommandLine

from greenlab.config import Lock
from greenlab.machine_lock import FOLDER_VARIABLE, machine_lock
from greenlab.run import CLAIM_FILE
from greenlab.simulated.machine import SimulatedMachine, Zone, workstation

QUICK = (
    "dataset=synthetic",
    "dataset.num_samples=64",
    "phase.warmup_batches=1",
    "phase.min_active_s=0.2",
    "idle.settle_s=0",
    "idle.window_s=0.3",
    "order=sequential",
)
EVERY_CELL_HAS = [
    "energy/net_j",
    "energy/gross_j",
    "energy/idle_j",
    "energy/net_paper_j",
    "energy/net_per_sample_j",
    "energy/net_cpu_j",
    "energy/gross_cpu_j",
    "power/mean_cpu_w",
    "power/idle_cpu_w",
    "power/mean_w",
    "time/active_s",
    "time/idle_before_s",
    "time/idle_after_s",
    "time/samples_per_s",
    "utilisation/cpu_percent",
    "utilisation/dram_percent",
    "model/parameters",
    "model/trainable_parameters",
    "model/parameter_bytes",
    "model/buffer_bytes",
    "model/size_bytes",
    "model/macs",
    "model/macs_exact",
    "model/activation_bytes",
    "model/macs_per_parameter",
    "task/loss",
    "task/accuracy",
    "task/samples",
    "work/samples",
    "epoch/net_j",
    "epoch/gross_j",
    "epoch/active_s",
    "epoch/loss",
    "epoch/accuracy",
]


def test_a_cell_on_a_workstation_lands_in_mlflow_within_one_percent(
    greenlab: CommandLine,
) -> None:
    with workstation() as machine:
        greenlab.put_on(machine)
        result = greenlab(
            "--config-dir",
            str(ROOT / "tests" / "conf_beacon"),
            "model=beacon",
            "model.kwargs.step_s=0.05",
            "dataset=synthetic",
            "dataset.num_samples=64",
            "phase=inference",
            "phase.min_active_s=4",
            "idle.settle_s=0.3",
            "idle.window_s=2",
        )
    assert result.returncode == 0, result.stdout + result.stderr
    [run] = greenlab.runs()
    metrics, tags = run.data.metrics, run.data.tags
    active_s = metrics["time/active_s"]
    assert active_s >= 4
    # The workstation draws 60, 5 and 300 W when it works; 20, 3 and 70 W when it does not.
    for component, above_idle_w in (("cpu", 60 - 20), ("dram", 5 - 3), ("gpu", 300 - 70)):
        net_j = metrics[f"energy/net_{component}_j"]
        assert net_j == pytest.approx(above_idle_w * active_s, rel=0.01), component
    assert metrics["power/mean_gpu_w"] == pytest.approx(300, rel=0.01)
    assert tags["energy_source.gpu"] == "measured:nvml"
    assert tags["energy_source.cpu"] == tags["energy_source.dram"] == "measured:rapl"
    assert tags["greenlab.coverage"] == "gpu+cpu+dram"
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_what_is_on_disk_lands_in_another_store_with_the_same_numbers(
    greenlab: CommandLine, empty_store: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    result = greenlab(*QUICK)
    assert result.returncode == 0, result.stdout + result.stderr
    [run] = greenlab.runs()
    metrics = run.data.metrics
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    result = greenlab("outputs", "--tracking-uri", other, module="greenlab.sync")
    assert result.returncode == 0, result.stdout + result.stderr
    client = MlflowClient(tracking_uri=other)
    [landed] = client.search_runs([run.info.experiment_id])
    assert (landed.data.metrics, landed.data.params) == (metrics, run.data.params)


BROKEN_MODEL = """
from torch import nn


class Broken(nn.Linear):
    def forward(self, images):
        if self.training and len(images) > 2:  # not yet in the check before the first cell
            raise RuntimeError("planted: this model does not train")
        return super().forward(images.flatten(1))


def build(num_classes):
    return Broken(3 * 32 * 32, num_classes)
"""


@pytest.mark.slow
def test_a_grid_outlives_a_cell_that_fails(greenlab: CommandLine) -> None:
    options = greenlab.folder / "my_conf" / "model"
    options.mkdir(parents=True)
    (options / "my_models.py").write_text(BROKEN_MODEL)  # beside its YAML
    (options / "broken.yaml").write_text("_target_: my_models.build\n")
    result = greenlab(
        "--config-dir", "my_conf", "-m", "model=lenet,broken", "phase=train,inference",
        "batch_size=16", "phase.epochs=2", *QUICK,
    )  # fmt: skip
    printed = result.stdout + result.stderr
    assert result.returncode == 1, printed
    assert "3 of 4 cells finished" in printed
    assert "planted: this model does not train" in printed
    assert "4/4" in printed
    assert "Traceback" not in printed
    cells = greenlab.runs()
    assert [run.info.status for run in cells] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert "planted" in cells[2].data.tags["greenlab.failure"]
    assert len({run.data.tags["greenlab.sweep"] for run in cells}) == 1
    assert not any("mlflow.parentRunId" in run.data.tags for run in cells)
    assert [run.data.params["model"] for run in cells] == ["lenet", "lenet", "broken", "broken"]
    for run in cells[:2]:
        assert set(EVERY_CELL_HAS) <= run.data.metrics.keys()
        assert all(math.isfinite(value) for value in run.data.metrics.values())
        assert run.data.tags["energy_source.cpu"] in ("modelled:tdp", "measured:rapl")
    [sweep] = greenlab.runs("sweep")
    assert sweep.info.status == "FAILED"
    assert sweep.data.metrics["cells/finished"] == 3
    folders = sorted(path.parent.name for path in greenlab.folder.glob("multirun/*/*/*/cell.json"))
    assert folders == [
        "broken-16-inference-3", "broken-16-train-2", "lenet-16-inference-1", "lenet-16-train-0",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_papers_sixteen_land_with_what_they_weigh(greenlab: CommandLine) -> None:
    from test_models import PARAMETERS, REFERENCE, SIXTEEN

    result = greenlab(
        "-m", "model=glob(*)", "phase=train,inference", "batch_size=16", *QUICK, timeout_s=1400
    )
    assert result.returncode == 0, result.stdout + result.stderr
    runs = greenlab.runs()
    assert [run.data.params["model"] for run in runs] == sorted(2 * SIXTEEN)
    known = PARAMETERS | {name: counted[0] for name, counted in REFERENCE.items()}
    for run in runs:
        assert run.info.status == "FINISHED"
        metrics = run.data.metrics
        assert metrics["model/parameters"] == known[run.data.params["model"]]
        assert metrics["model/size_bytes"] == (
            4 * metrics["model/parameters"] + metrics["model/buffer_bytes"]
        )
        assert metrics["model/macs"] >= metrics["model/macs_exact"] > 0
        assert {name for name in EVERY_CELL_HAS if name.startswith("model/")} <= metrics.keys()


@pytest.mark.slow
def test_what_cannot_run_is_refused_before_the_first_cell(greenlab: CommandLine) -> None:
    greenlab.environment |= {
        "https_proxy": "http://127.0.0.1:9",  # nobody answers there
        "http_proxy": "http://127.0.0.1:9",
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = greenlab("-m", "hardware=hc2,cuda", "dataset=cifar10,digits", "dataset.folder=images")
    printed = result.stdout + result.stderr
    assert result.returncode == 1
    assert "Traceback" not in printed
    assert "hardware.cpu_name is 'i9-11900KF'" in printed or "hardware.device=cuda" in printed
    assert "hardware.device=cpu" in printed or "hardware.strict=false" in printed
    for part in ("cifar-10-python.tar.gz", str(greenlab.folder / "images"), "dataset=digits"):
        assert part in printed
    assert not greenlab.runs()
    assert not greenlab.runs("sweep")
    assert not greenlab.records()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=nope"], ["model/nope", "lenet", "vgg16"]),
        (["-m", "batch_size=32,0"], ["batch_size=0", "1 or more"]),
        (["phase.epoch=3"], ["phase.epoch", "Phase"]),
        (["-m", "model=lenet", "phase.epochs=0,1"], ["phase.epochs is 0"]),
        (["-m", "model=glob(zzz*)"], ["model=glob(zzz*)", "no cell matches", "--help"]),
        (["mlflow.tracking_uri=http://127.0.0.1:9"], ["mlflow.tracking_uri", "refused"]),
        (["-m", "hydra.sweep.dir=/proc/nowhere"], ["hydra.sweep.dir=/proc/nowhere", "/greenlab"]),
        (["hydra.run.dir=/proc/nowhere"], ["hydra.run.dir=/proc/nowhere"]),
        pytest.param(
            ["model.freeze=[conv9]"],
            ["model.freeze: conv9", "conv1, conv2, fc1"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["-m", "model.freeze=[*]", "phase=train"],
            ["model.freeze", "phase=inference"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["dataset=synthetic", "dataset.image_size=28"],
            ["(1, 3, 28, 28)", "(1, 3, 32, 32)"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["model._target_=torchvision.models.googlenet"],
            ["in training", "aux_logits"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else str(value),
)
def test_bad_input_is_refused_with_one_clear_message(
    greenlab: CommandLine, arguments: list[str], parts: list[str]
) -> None:
    result = greenlab(*arguments)
    printed = result.stdout + result.stderr
    assert result.returncode == 1
    assert "Traceback" not in printed
    assert "hush" not in printed
    for part in parts:
        assert part in printed
    assert not greenlab.records()


def test_a_sweep_of_one_cell_may_end_with_an_option_of_hydra_s(
    greenlab: CommandLine, tmp_path: Path
) -> None:
    result = greenlab("repetitions=2", "--config-dir", str(tmp_path), "--cfg", "job")

    assert result.returncode == 0, result.stderr
    assert "repetitions: 2" in result.stdout


def test_help_lists_the_live_options_and_examples(greenlab: CommandLine) -> None:
    printed = greenlab("--help").stdout
    for part in (
        "model: densenet121, dpn26, efficientnet_b0, googlenet, lenet",
        "phase: inference, profile, train",
        "dataset: cifar10, digits, synthetic",
        "hardware: auto, cpu, cuda, hc1, hc2, hc3",
        "python -m greenlab model=resnet18 batch_size=64",
        "python -m greenlab -m 'model=glob(*)' batch_size=32,64,128",
        "python -m greenlab experiment=demo",
    ):
        assert part in printed


def test_doctor_says_what_is_modelled_and_why(greenlab: CommandLine, tmp_path: Path) -> None:
    greenlab.environment["GREENLAB_POWERCAP_ROOT"] = str(tmp_path / "none")
    result = greenlab(module="greenlab.doctor")
    assert result.returncode == 3
    for part in ("modelled:tdp", "no RAPL", "TDP", "mlflow.db", "lock: free"):
        assert part in result.stdout


def test_doctor_tells_programs_the_same(greenlab: CommandLine) -> None:
    zone = Zone("package-0", idle_w=20, active_w=60, readable=False)
    with SimulatedMachine(zones=[zone]) as machine:
        greenlab.put_on(machine)
        folder = machine.environment()[FOLDER_VARIABLE]
        with machine_lock(Lock(folder=folder)):
            result = greenlab("--json", module="greenlab.doctor")
    found = json.loads(result.stdout)
    assert result.returncode == found["exit_code"] == 3
    [_, cpu, dram] = found["components"]
    assert (cpu["component"], cpu["provenance"]) == ("cpu", "modelled:tdp")
    assert (dram["component"], dram["provenance"]) == ("dram", "absent")
    assert any("udevadm" in remedy for remedy in found["remedies"])
    assert found["environment"]["cpu_name"]
    assert found["lock"]["file"] == f"{folder}/greenlab-machine.lock"
    assert found["lock"]["state"].startswith(f"taken by process {os.getpid()} of ")


@pytest.mark.slow
def test_doctor_is_content_with_a_metered_machine(greenlab: CommandLine) -> None:
    with workstation() as machine:
        greenlab.put_on(machine)
        result = greenlab(module="greenlab.doctor")
    assert result.returncode == 0
    assert result.stdout.count("measured:") == 3


@pytest.mark.slow
def test_the_folder_of_another_run_is_refused(greenlab: CommandLine) -> None:
    (greenlab.folder / "mine").mkdir()
    (greenlab.folder / "mine" / CLAIM_FILE).touch()
    result = greenlab("hydra.run.dir=mine", *QUICK)
    assert result.returncode == 1
    assert "holds the results of another run" in result.stderr
    assert not greenlab.records()


@pytest.mark.slow
def test_a_folder_is_never_written_twice_and_no_old_result_served_as_new(
    greenlab: CommandLine,
) -> None:
    first = greenlab("hydra.run.dir=mine", *QUICK)
    assert first.returncode == 0, first.stdout + first.stderr
    again = greenlab("hydra.run.dir=mine", "seed=1", *QUICK)
    assert again.returncode == 1
    assert "holds the results of another run" in again.stderr
    [record] = greenlab.records()
    assert record.cell.config["seed"] == 0
