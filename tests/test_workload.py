"""Devices, models and loops: what is refused, what repeats itself, what warm-up leaves behind."""

import math

import pytest
import torch
from conftest import make_config
from torch import nn

from greenlab import phases, preparation, workload
from greenlab.config import Device
from greenlab.errors import HardwareMismatchError, ModelError
from greenlab.workload import Workload, build_workload

CPU = torch.device("cpu")
TINY = ("dataset.num_samples=96", "batch_size=32", "phase.learning_rate=0.05")


def build(*overrides: str) -> Workload:
    return build_workload(make_config(*TINY, *overrides), CPU)


def train_curve(epochs: int, *overrides: str) -> list[tuple[float, float]]:
    running = build(f"phase.epochs={epochs}", *overrides)
    preparation.warm_up(running)
    outcomes = [phases.train_one_epoch(running).outcome() for _ in range(epochs)]
    return [(outcome.loss, outcome.accuracy) for outcome in outcomes]


def test_the_same_seed_gives_the_same_loss_curve() -> None:
    assert train_curve(3) == train_curve(3)


def test_another_seed_gives_another_curve() -> None:
    assert train_curve(1) != train_curve(1, "seed=1")


def test_warming_up_leaves_no_trace_in_what_is_learnt() -> None:
    assert train_curve(2, "phase.warmup_batches=0") == train_curve(2, "phase.warmup_batches=7")


def test_warming_up_inference_leaves_the_weights_alone() -> None:
    running = build("phase=inference")
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    preparation.warm_up(running)
    assert all(
        torch.equal(before[name], value) for name, value in running.model.state_dict().items()
    )


def test_training_learns_the_digits() -> None:
    running = build("dataset.num_samples=1437", "phase.epochs=6")
    for _ in range(6):
        phases.train_one_epoch(running)
    assert phases.evaluate(running).accuracy > 0.7  # chance is 0.1


def test_a_pass_counts_every_sample_once_and_its_loss_is_their_mean() -> None:
    running = build("dataset.num_samples=80", "phase=inference", "phase.min_active_s=0")
    outcome = phases.infer_samples(running).outcome()
    assert (outcome.num_samples, outcome.num_batches) == (80, 3)
    with torch.inference_mode():
        images, labels = map(torch.cat, zip(*running.test, strict=True))
        scores = running.model.eval()(images)
    assert outcome.loss == pytest.approx(
        float(nn.functional.cross_entropy(scores, labels)), rel=1e-5
    )
    assert outcome.accuracy == pytest.approx(float((scores.argmax(1) == labels).float().mean()))


def test_inference_goes_round_until_enough_time_has_passed() -> None:
    running = build("phase=inference", "phase.min_active_s=0.3")
    tally = phases.infer_samples(running)
    assert tally.num_samples > 96
    assert tally.num_samples % 96 == 0


def test_the_learning_rate_follows_a_cosine_to_zero() -> None:
    running = build("phase.epochs=4")
    rates = []
    for _ in range(4):
        rates.append(running.optimiser.param_groups[0]["lr"])
        phases.train_one_epoch(running)
    wanted = [0.05 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert rates == pytest.approx(wanted)


def test_cuda_asked_for_and_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HardwareMismatchError, match=r"hardware\.device=cuda.*hardware\.device=cpu"):
        workload.choose_device(Device.cuda)
    assert workload.choose_device(Device.auto) == CPU


def test_frozen_layers_stay_as_they_are_and_the_others_learn() -> None:
    running = build("model.freeze=[conv1,fc1.weight]", "phase.epochs=1")
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    phases.train_one_epoch(running)
    after = running.model.state_dict()
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {"conv1.weight", "conv1.bias", "fc1.weight"}


def test_nothing_left_to_train_is_refused_in_training_alone() -> None:
    with pytest.raises(ModelError, match=r"model\.freeze.*phase=inference"):
        build("model.freeze=['*']")
    frozen = build("model.freeze=['*']", "phase=inference", "phase.min_active_s=0")
    assert phases.infer_samples(frozen).num_samples == 96


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def test_layers_that_find_their_size_in_the_data_are_trained() -> None:
    running = build("model._target_=test_workload.lazy", "phase.epochs=1")
    weight = running.model[1].weight
    before = weight.detach().clone()
    phases.train_one_epoch(running)
    assert weight.shape == (10, 3 * 32 * 32)
    assert not torch.equal(weight, before)


def test_a_model_with_other_classes_than_the_data_is_refused() -> None:
    settings = make_config("+model.kwargs.num_classes=7")
    with pytest.raises(ModelError, match=r"gives \(1, 7\).*\(1, 10\).*dataset\.num_classes"):
        build_workload(settings, CPU)


def test_what_is_learnt_does_not_depend_on_where_the_images_are() -> None:
    resident, streamed = (
        train_curve(2, "dataset.augment=true", f"dataset.placement={placement}")
        for placement in ("resident", "streamed")
    )
    assert streamed == resident


def test_images_that_fit_are_resident() -> None:
    running = build()
    assert running.train.placement == running.test.placement == "resident"
    assert build("dataset.placement=streamed").train.placement == "streamed"
