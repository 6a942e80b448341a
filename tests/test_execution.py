"""How the work is computed: each setting does what it says, and none changes what is computed."""

import ctypes
import math

import pytest
import torch
from conftest import make_config
from torch import nn

from greenlab import config as configuration
from greenlab import execution, phases, preparation
from greenlab.config import Config, MemoryFormat, Precision, job_signature, signature, to_dict, work
from greenlab.errors import ConfigError, HardwareMismatchError, ModelError
from greenlab.network import check_output
from greenlab.workload import Workload, build_workload

CPU = torch.device("cpu")
SMALL = ("dataset=digits", "dataset.num_samples=80", "hardware=cpu")


def build(*overrides: str) -> Workload:
    return build_workload(make_config(*SMALL, *overrides), CPU)


def losses(*overrides: str, epochs: int = 2) -> list[float]:
    running = build("phase.learning_rate=0.02", *overrides)
    return [phases.train_one_epoch(running).outcome().loss for _ in range(epochs)]


# ------------------------------------------------------------------------------- same results


@pytest.mark.parametrize("model", ["lenet", "mobilenet_v2"])
def test_the_layout_changes_nothing_but_rounding(model: str) -> None:
    found = []
    for layout in ("channels_last", "contiguous"):
        running = build(f"model={model}", f"memory_format={layout}", "batch_size=4")
        images, labels = next(iter(running.train))
        scores = running.model.double().train()(images.double())
        nn.functional.cross_entropy(scores, labels).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in running.model.parameters() if p.grad is not None]
        found.append((scores, torch.cat(gradients)))

    (scores, gradient), (plain_scores, plain_gradient) = found
    torch.testing.assert_close(scores, plain_scores)
    torch.testing.assert_close(gradient, plain_gradient)


def test_images_and_weights_lie_as_the_layout_says() -> None:
    running = build("memory_format=channels_last")

    images, _ = next(iter(running.train))
    convolution = next(m for m in running.model.modules() if isinstance(m, nn.Conv2d))
    for tensor in (images, convolution.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


# 8 bits of mantissa: a product is right to 1 in 256 or so, and a mean over many better than that.
def test_bf16_rounds_and_comes_out_alike() -> None:
    rounded, exact = losses("precision=bf16"), losses("precision=fp32")

    assert rounded == pytest.approx(exact, rel=0.02)
    assert rounded != exact


def test_only_fp16_scales_its_loss_and_the_warm_up_leaves_the_scale_alone() -> None:
    running = build("precision=fp16", "phase.warmup_batches=2")
    before = running.scaler.get_scale()
    preparation.warm_up(running)

    assert running.scaler.get_scale() == before == 65536  # torch's first one
    assert not build("precision=bf16").scaler.is_enabled()


def test_fp16_trains_as_fp32_does() -> None:
    assert losses("precision=fp16") == pytest.approx(losses("precision=fp32"), rel=0.02)


def test_scores_are_compared_in_fp32() -> None:
    running = build("precision=bf16", "phase=inference", "dataset.num_samples=8")

    with torch.inference_mode(), execution.autocast(Precision.bf16, CPU):
        assert running.model(next(iter(running.test))[0]).dtype is torch.bfloat16
    assert math.isfinite(phases.infer_samples(running).outcome().loss)


# ---------------------------------------------------------------------------------- the layout


class Views(nn.Module):
    """Insists on contiguous tensors, as many a model does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 30 * 30, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.convolution(images)
        scores: torch.Tensor = self.linear(found.view(found.size(0), -1))
        return scores


def test_a_model_that_takes_no_other_layout_keeps_its_own() -> None:
    sample = torch.zeros(1, 3, 32, 32)

    def choose(model: nn.Module) -> torch.memory_format:
        return execution.choose_layout(make_config("memory_format=auto"), model, sample)

    assert choose(Views()) is torch.contiguous_format
    assert choose(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())) is torch.channels_last


def test_a_layout_that_a_model_does_not_take_is_refused_with_the_way_out() -> None:
    sample = torch.zeros(1, 3, 32, 32).to(memory_format=torch.channels_last)

    with pytest.raises(ModelError, match="memory_format=auto takes it where"):
        check_output(Views(), sample, make_config("memory_format=channels_last"))


# ------------------------------------------------------------------------------ the allocator


def test_kept_blocks_are_not_mapped_anew() -> None:
    """The number of blocks that malloc has mapped by themselves, from its own books."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in (
                *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
                *("uordblks", "fordblks", "keepcost"),
            )
        ]

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("glibc before 2.33 does not tell")
    libc.mallinfo2.restype = Mallinfo2
    execution.keep_blocks()
    before = libc.mallinfo2()
    block = torch.zeros(64 * 2**20, dtype=torch.uint8)

    after = libc.mallinfo2()
    assert after.hblks == before.hblks
    del block
    assert libc.mallinfo2().arena >= after.arena  # and is not trimmed


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("precision=tf32", "precision=tf32"),
        ("cuda_graphs=true", "cuda_graphs=true"),
        ("cudnn_benchmark=true", "cudnn_benchmark=true"),
    ],
)
def test_what_is_of_cuda_is_refused_on_a_cpu(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_config("hardware=cpu", override)
    with pytest.raises(HardwareMismatchError, match=told):
        execution.check_execution(make_config(override), CPU)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["num_threads=0"], "num_threads is 0"),
        (["precision=fp8"], "precision"),
        (["compile=true", "cuda_graphs=true"], "leave one of them out"),
    ],
)
def test_bad_settings_are_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(Exception, match=told):
        make_config(*overrides)


# ---------------------------------------------------------------------------------- signatures


def test_they_tell_cells_apart_and_not_their_work() -> None:
    plain, lower = make_config(*SMALL), make_config(*SMALL, "precision=bf16")

    assert signature(plain) != signature(lower)
    assert job_signature(to_dict(plain)) != job_signature(to_dict(lower))
    assert work(to_dict(plain)) == work(to_dict(lower))  # or they could not be compared


def test_what_is_recorded_is_what_was_in_force() -> None:
    recorded = build("num_threads=1").execution

    assert recorded.memory_format == MemoryFormat.channels_last.name  # auto, decided
    assert recorded.num_threads == torch.get_num_threads() == 1
    assert recorded.precision == "fp32"
    assert recorded.allocator == "keep"
    assert set(configuration.EXECUTION) == {*recorded.__dataclass_fields__}


def test_every_setting_has_its_field() -> None:
    assert set(configuration.EXECUTION) <= set(Config.__dataclass_fields__)


# -------------------------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiled_model_learns_the_same_and_is_compiled_before_the_passes() -> None:
    import torch._dynamo.utils as dynamo

    overrides = ("batch_size=32", "phase.learning_rate=0.02")  # 80 samples: 32, 32 and 16
    plain, compiled = build(*overrides), build(*overrides, "compile=true")
    preparation.prepare_model(compiled)
    num_compiled = dynamo.counters["stats"]["unique_graphs"]

    losses = [
        [phases.train_one_epoch(one).outcome().loss for _ in range(2)] for one in (plain, compiled)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert phases.evaluate(compiled).loss == pytest.approx(phases.evaluate(plain).loss, rel=1e-3)
    assert num_compiled > 0
    assert dynamo.counters["stats"]["unique_graphs"] == num_compiled  # nothing in the windows


# ------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_change_nothing_but_the_launch(precision: str) -> None:
    overrides = ("dataset=digits", "dataset.num_samples=80", "phase.learning_rate=0.02")
    device = torch.device("cuda", 0)
    losses = []
    for graphs in ("false", "true"):  # batches of 32, 32 and 16
        config = make_config(*overrides, f"precision={precision}", f"cuda_graphs={graphs}")
        running = build_workload(config, device)
        preparation.prepare_model(running)
        preparation.warm_up(running)
        losses.append([phases.train_one_epoch(running).outcome().loss for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.gpu
def test_inference_is_replayed_on_each_batch_anew() -> None:
    device = torch.device("cuda", 0)
    outcomes = []
    for graphs in ("false", "true"):
        config = make_config("dataset.num_samples=80", "phase=inference", f"cuda_graphs={graphs}")
        running = build_workload(config, device)
        preparation.prepare_model(running)
        outcomes.append(phases.infer_samples(running).outcome())
    assert outcomes[1].loss == pytest.approx(outcomes[0].loss, rel=1e-5)
    assert outcomes[1].accuracy == outcomes[0].accuracy
