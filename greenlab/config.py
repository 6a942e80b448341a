"""The configuration: one dataclass per group, its value rules, and what makes two cells the same.

Hydra composes YAML into this schema, so a wrong type or an unknown key is refused wherever it is
written. The rules on values sit in `__post_init__` and run when a composed configuration is turned
into a `Config`. Every number carries its unit in its key.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from enum import Enum
from functools import cache
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from greenlab import carbon as carbons
from greenlab.errors import ConfigError, first_line, without_password


class Device(Enum):
    """Where the workload runs; `auto` takes CUDA where it is."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class GpuSource(Enum):
    """What meters the GPUs; `auto` takes the energy counter, else polled power, where a GPU is."""

    auto = "auto"
    nvml = "nvml"
    nvml_power = "nvml_power"
    none = "none"


class CpuSource(Enum):
    """What meters the CPUs; `auto` takes RAPL where it can be read, else the TDP model."""

    auto = "auto"
    rapl = "rapl"
    tdp_model = "tdp_model"
    none = "none"


class DramSource(Enum):
    """What meters memory; `auto` takes RAPL where it can be read, else the model of known DIMMs."""

    auto = "auto"
    rapl = "rapl"
    dimm_model = "dimm_model"
    none = "none"


class DimmGeneration(Enum):
    """Kinds of memory: rows of the table in meters/dimm_model.py."""

    ddr3 = "ddr3"
    ddr4 = "ddr4"
    ddr5 = "ddr5"
    lpddr4 = "lpddr4"
    lpddr5 = "lpddr5"


class Placement(Enum):
    """Where images are while a cell runs; `auto` takes resident where they fit."""

    auto = "auto"
    resident = "resident"
    streamed = "streamed"


class Order(Enum):
    """In which order a sweep measures its cells."""

    sequential = "sequential"
    shuffle = "shuffle"
    blocked = "blocked"


class PhaseKind(Enum):
    """What is metered: rows of the table in phases.py."""

    train = "train"
    inference = "inference"
    profile = "profile"


class Precision(Enum):
    """Of the arithmetic; weights are float32 in all of them, and loss is."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


class MemoryFormat(Enum):
    """How images lie in memory; `auto` is channels_last on a CPU where the model takes it."""

    auto = "auto"
    contiguous = "contiguous"
    channels_last = "channels_last"


class Allocator(Enum):
    """What the C library does with large blocks that are freed."""

    keep = "keep"
    system = "system"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _at_least(key: str, value: Any, least: float) -> None:
    # __post_init__ also runs on the schema's own defaults, where a value may still be MISSING.
    if isinstance(value, int | float):
        _require(least <= value < math.inf, f"{key} is {value}; it must be {least} or more")


def _above_zero(key: str, value: Any) -> None:
    if isinstance(value, int | float):
        _require(0 < value < math.inf, f"{key} is {value}; it must be greater than 0")


@dataclass
class Model:
    """A network: the builder that makes it and the builder's arguments."""

    _target_: str = MISSING
    """Importable callable that returns a torch.nn.Module; `num_classes` is given to one that takes
    it."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    freeze: Any = field(default_factory=list)
    """Layers or parameters that training leaves as they are, a name or a list of names within the
    model, `*` for any text. Running statistics of a frozen batch norm still follow the data."""

    def __post_init__(self) -> None:
        names = self.freeze if isinstance(self.freeze, list) else [self.freeze]
        # YAML reads the layer 1.10 as the number 1.1.
        plain = all(isinstance(name, str) or type(name) is int for name in names)
        _require(
            plain,
            f"model.freeze is {self.freeze}; it must be a list of names of layers or parameters, "
            "those that look like numbers in quotes, as in model.freeze=[conv1,'1.10']",
        )
        self.freeze = [str(name) for name in names]


@dataclass
class EnergySources:
    """One source per component."""

    gpu: GpuSource = GpuSource.auto
    cpu: CpuSource = CpuSource.auto
    dram: DramSource = DramSource.auto


@dataclass
class TdpW:
    """Thermal design power in watts, as the data sheet has it."""

    cpu: float | None = None
    """Of all CPU sockets together, for `tdp_model`; null: looked up, else assumed per core."""
    gpu: float | None = None
    """Of one GPU, drawn as a line in figures; null: NVML's power limit."""

    def __post_init__(self) -> None:
        for key in ("cpu", "gpu"):
            _above_zero(f"hardware.tdp_w.{key}", getattr(self, key))


@dataclass
class Hardware:
    """Where the workload runs, what meters it, and what machine it expects to be on."""

    device: Device = Device.auto
    energy_sources: EnergySources = field(default_factory=EnergySources)
    strict: bool = True
    """Refuse to run where the names below do not match; false records a doubt instead."""
    cpu_name: str | None = None
    """Text that the CPU's model name must contain; null: any CPU."""
    gpu_name: str | None = None
    """Text that the GPU's name must contain; null: any GPU."""
    tdp_w: TdpW = field(default_factory=TdpW)
    socket_share_fraction: float | None = None
    """Part of the CPU's TDP that is this machine's, for `tdp_model`; null: cores seen over cores of
    the socket on a virtual machine, else 1."""
    idle_floor_fraction: float = 0.0
    """Part of the TDP that `tdp_model` says is drawn at rest; 0: none, as in the paper."""
    power_limit_w: float | None = None
    """Limit of each GPU that is metered while the cell is measured, put back afterwards; null: as
    it is found. Setting it takes root."""
    num_dimms: int | None = None
    """Memory modules in the machine, for `dimm_model`; null: as dmidecode finds, where it may."""
    dimm_generation: DimmGeneration | None = None
    """Its defaults stand in for what is not known below; null: as dmidecode finds, else ddr4."""
    dimm_voltage_v: float | None = None
    """null: as dmidecode finds, else the generation's."""
    dimm_frequency_hz: float | None = None
    """Transfers per second, as memory is sold: DDR4-3200 is 3.2e9; null: as for the voltage."""
    dimm_capacitance_f: float | None = None
    """C of P = ½·C·V²·f, which the paper does not state; null: the generation's."""

    def __post_init__(self) -> None:
        for key in (
            "power_limit_w",
            "num_dimms",
            "dimm_voltage_v",
            "dimm_frequency_hz",
            "dimm_capacitance_f",
        ):
            _above_zero(f"hardware.{key}", getattr(self, key))
        share, floor = self.socket_share_fraction, self.idle_floor_fraction
        if isinstance(share, int | float):
            _require(
                0 < share <= 1,
                f"hardware.socket_share_fraction is {share}; it must be greater than 0, 1 at most",
            )
        if isinstance(floor, int | float):
            _require(
                0 <= floor < 1,
                f"hardware.idle_floor_fraction is {floor}; it must be 0 or more and less than 1",
            )


@dataclass
class BatchSize:
    """Samples per step."""

    size: int = MISSING

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            _require(
                self.size >= 1,
                f"batch_size is {self.size}; a batch holds a whole number of samples, 1 or more, "
                "for example batch_size=32",
            )


@dataclass
class Phase:
    """What is metered, and how much of it."""

    kind: PhaseKind = MISSING
    epochs: int = 1
    """Training passes over the samples, each metered by itself."""
    min_active_s: float = 0.0
    """Inference goes over the samples again until this much time is metered."""
    warmup_batches: int = 5
    """Unmetered steps before the first idle window; weights and seeds are restored after them."""
    learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 5e-4
    stretch_s: float = 0.5
    """Of a profile: least length of a stretch; longer where counters tick slowly."""
    target_rel_ci: float = 0.03
    """Of a profile: half-width of the 95 % interval of net joules per sample over that mean, of
    training and of inference; of seconds per sample where nothing is metered."""
    min_stretches: int = 3
    """Of a profile, of each kind."""
    max_stretches: int = 12
    """Of a profile, of each kind, whether `target_rel_ci` is met or not."""
    stop_early: bool = False
    """Of training: end it where it cannot reach the front of the sweep's cells before it."""
    stop_after_epochs: int = 5
    """Least number of epochs before `stop_early` may."""
    stop_below_accuracy: float | None = None
    """With `stop_early`: end it as well where it cannot reach this accuracy on the test split."""

    def __post_init__(self) -> None:
        _at_least("phase.epochs", self.epochs, 1)
        _at_least("phase.min_active_s", self.min_active_s, 0)
        _at_least("phase.warmup_batches", self.warmup_batches, 0)
        _above_zero("phase.learning_rate", self.learning_rate)
        _at_least("phase.momentum", self.momentum, 0)
        _at_least("phase.weight_decay", self.weight_decay, 0)
        _above_zero("phase.stretch_s", self.stretch_s)
        _above_zero("phase.target_rel_ci", self.target_rel_ci)
        _at_least("phase.min_stretches", self.min_stretches, 2)
        if isinstance(self.max_stretches, int) and isinstance(self.min_stretches, int):
            _at_least("phase.max_stretches", self.max_stretches, self.min_stretches)
        self._check_stop()

    def _check_stop(self) -> None:
        after, below = self.stop_after_epochs, self.stop_below_accuracy
        _at_least("phase.stop_after_epochs", after, 3)
        if isinstance(below, int | float):
            _require(
                0 < below <= 1,
                f"phase.stop_below_accuracy is {below}; it must be a fraction, greater than 0 and "
                "1 at most",
            )
            _require(
                self.stop_early,
                f"phase.stop_below_accuracy is {below} and phase.stop_early is false: nothing "
                "would be stopped; add phase.stop_early=true",
            )
        if self.stop_early and self.kind is PhaseKind.train:
            _require(
                after < self.epochs,
                f"phase.stop_early with phase.epochs={self.epochs}: none would be saved after "
                f"phase.stop_after_epochs={after}; raise the former, or leave phase.stop_early out",
            )


@dataclass
class Profile:
    """The job that a profile (`phase=profile`) tells the time and energy of."""

    target_epochs: int | None = None
    """Training passes over the training split, and one test after them; null: `phase.epochs`; 0:
    no training."""
    target_inferences: int | None = None
    """Samples; null: one pass over the test split; 0: none."""

    def __post_init__(self) -> None:
        _at_least("profile.target_epochs", self.target_epochs, 0)
        _at_least("profile.target_inferences", self.target_inferences, 0)
        _require(
            not (self.target_epochs == 0 and self.target_inferences == 0),
            "profile.target_epochs and profile.target_inferences are both 0: there is no job to "
            "tell of; raise one, or leave it null",
        )


@dataclass
class Dataset:
    """Labelled images: the loader that makes them and how much of them to take."""

    _target_: str = MISSING
    """Importable callable: `load(dataset: Dataset, seed: int) -> greenlab.data.Data`."""
    num_samples: int | None = None
    """Samples per pass in either phase, the test split gone over again where it is smaller; null:
    all there are, the test split `replicate_test` times."""
    num_channels: int = 3
    image_size: int = 32
    """Height of an image in pixels, and its width where image_width is null."""
    image_width: int | None = None
    num_classes: int = 10
    replicate_test: int = 1
    """Times that the test split is gone over to make one pass (the paper: 5 × 10,000)."""
    augment: bool = False
    """Random crops (4 pixels of padding) and horizontal flips while training."""
    folder: str = "data"
    """Where downloaded data sets lie, relative to the working directory."""
    placement: Placement = Placement.auto
    """resident: on the device, all of them. streamed: brought to it batch by batch, by a thread
    that is ahead of the work. auto: resident where both splits fit in half of the memory that is
    free."""

    def __post_init__(self) -> None:
        for key in ("num_samples", "image_size", "image_width", "num_channels", "replicate_test"):
            _at_least(f"dataset.{key}", getattr(self, key), 1)
        _at_least("dataset.num_classes", self.num_classes, 2)


@dataclass
class Idle:
    """The windows in which the machine is metered doing nothing."""

    settle_s: float = 3.0
    """Wait before each idle window, for clocks and power to come down."""
    window_s: float = 10.0
    settle_celsius: float = 5.0
    """After `settle_s`, wait until each metered GPU is this close to its temperature in the sweep's
    first idle window."""
    settle_max_s: float = 120.0
    """Longest such wait before each idle window; 0: none."""

    def __post_init__(self) -> None:
        _at_least("idle.settle_s", self.settle_s, 0)
        _above_zero("idle.window_s", self.window_s)
        _at_least("idle.settle_celsius", self.settle_celsius, 0)
        _at_least("idle.settle_max_s", self.settle_max_s, 0)


@dataclass
class Sampler:
    """The background trace of power and utilisation."""

    period_s: float = 0.1

    def __post_init__(self) -> None:
        _at_least("sampler.period_s", self.period_s, 0.01)
        # Counters are followed at each tick: a longer period could miss a wrap of one.
        if isinstance(self.period_s, int | float):
            _require(self.period_s <= 10, f"sampler.period_s is {self.period_s}; at most 10")


@dataclass
class Quality:
    """From where on a measurement is doubted; results are the same whatever these are."""

    min_ticks: float = 50.0
    """Ticks of the slowest counter in the passes, and in an idle window: with 50 a tick is 2 %."""
    max_idle_drift_fraction: float = 0.05
    """Of idle power, between the windows before and after; LLenergyMeasure's spot check allows
    twice that."""
    max_idle_cpu_percent: float = 10.0
    """Of all CPUs in the idle windows; our choice, above what daemons and the sampler take."""
    max_idle_gpu_percent: float = 5.0
    """NVML's utilisation in the idle windows; our choice."""
    max_idle_cooling_celsius: float = 3.0
    """That a GPU cools in an idle window: it has not settled; our choice, NVML counts in 1 °C."""
    max_warming_celsius: float = 15.0
    """That a GPU warms over the passes; hot silicon leaks more. Our choice."""
    max_gap_s: float = 1.0
    """Between two samples of the trace, whose period is 0.1 s as a rule; our choice."""
    max_still_s: float = 2.0
    """That a counter may stand still: RAPL ticks every millisecond, NVML's every 20 to 100 ms."""
    max_power_mismatch_fraction: float = 0.05
    """Between a GPU's energy counter and its power readings: the ±5 % that boards' sensors are said
    to have (Yang et al., SC24)."""
    max_slowed_fraction: float = 0.05
    """Of the passes with clocks slowed by heat or hardware; our choice."""
    max_power_capped_fraction: float = 0.05
    """Of the passes with clocks held down by the power limit; our choice."""
    max_others_cpu_percent: float = 10.0
    """Of all CPUs in the passes, by other processes; our choice."""
    max_stolen_percent: float = 1.0
    """Of CPU time that the hypervisor gave to others; our choice."""
    max_swapped_bytes: int = 1_000_000
    """Swapped in and out during the cell; a page or two of any process is nothing. Our choice."""
    max_clock_jump_s: float = 0.5
    """Of the wall clock against the monotonic one; time servers slew by less than 0.5 ms per s."""

    def __post_init__(self) -> None:
        for name, limit in vars(self).items():
            _at_least(f"quality.{name}", limit, 0)


@dataclass
class Mlflow:
    """Where results land."""

    tracking_uri: str | None = None
    """null: $MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in the working directory. No
    password in it: what is configured is stored."""
    experiment: str = "greenlab"
    required: bool = True
    """Refuse to start where the store does not answer; false: results wait on disk for it."""

    def __post_init__(self) -> None:
        _require(bool(str(self.experiment).strip()), "mlflow.experiment is empty; name one")
        _require(
            without_password(self.tracking_uri) == self.tracking_uri,
            "mlflow.tracking_uri has a password in it, which would be stored with every cell. Take "
            "it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the "
            "environment (PGPASSWORD where the store is PostgreSQL), or give the whole address in "
            "MLFLOW_TRACKING_URI instead",
        )


@dataclass
class Resume:
    """Which cells of a grid are taken as measured already."""

    sweep: str | None = None
    """null: none. any: those of any sweep in the experiment. Else those of the sweep of this name
    or run id."""
    strict: bool = False
    """Refuse where those were measured by another commit of greenlab or on another machine; false:
    say so."""


@dataclass
class Lock:
    """One measurement at a time on a machine."""

    wait: bool = True
    """Wait for another greenlab that measures here; false: refuse."""
    folder: str | None = None
    """Where the lock's files lie, the same for all users of a machine; null: /run/lock, else the
    system's folder for temporary files."""


@dataclass
class Carbon:
    """What a joule costs; reckoned after the joules and never mixed with them."""

    country: str | None = None
    """Three letters (ISO 3166-1), for the table in carbon.csv; null: no emissions are reckoned."""
    g_co2e_per_kwh: float | None = None
    """Of the electricity used; null: the country's."""
    price_per_kwh: float | None = None
    """In any currency; null: no cost is reckoned."""
    currency: str = ""
    """Shown after costs."""
    pue: float = 1.0
    """Power usage effectiveness: what the whole building draws for each joule metered."""

    def __post_init__(self) -> None:
        _at_least("carbon.g_co2e_per_kwh", self.g_co2e_per_kwh, 0)
        _at_least("carbon.price_per_kwh", self.price_per_kwh, 0)
        _at_least("carbon.pue", self.pue, 1)
        if isinstance(self.country, str):
            carbons.find_grid(self.country)

    @property
    def tariff(self) -> carbons.Tariff:
        """These settings, the country's grams looked up."""
        grams = self.g_co2e_per_kwh
        if grams is None and self.country is not None:
            grams = carbons.find_grid(self.country).g_co2e_per_kwh
        return carbons.Tariff(g_co2e_per_kwh=grams, price_per_kwh=self.price_per_kwh, pue=self.pue)


@dataclass
class Config:
    """One cell of the grid."""

    model: Model = field(default_factory=Model)
    hardware: Hardware = field(default_factory=Hardware)
    batch_size: BatchSize = field(default_factory=BatchSize)
    phase: Phase = field(default_factory=Phase)
    profile: Profile = field(default_factory=Profile)
    dataset: Dataset = field(default_factory=Dataset)
    idle: Idle = field(default_factory=Idle)
    sampler: Sampler = field(default_factory=Sampler)
    quality: Quality = field(default_factory=Quality)
    mlflow: Mlflow = field(default_factory=Mlflow)
    carbon: Carbon = field(default_factory=Carbon)
    lock: Lock = field(default_factory=Lock)
    resume: Resume = field(default_factory=Resume)
    precision: Precision = Precision.fp32
    """tf32 rounds what CUDA's matrix products and convolutions multiply; bf16 and fp16 are
    torch.autocast's, fp16 with its loss scaled in training."""
    memory_format: MemoryFormat = MemoryFormat.auto
    compile: bool = False
    """The model goes through torch.compile, before the first window; what that takes is a stage of
    the cell's account."""
    cuda_graphs: bool = False
    """The steps of full batches are launched as one; for models whose kernels are shorter than
    their launch."""
    cudnn_benchmark: bool = False
    """cuDNN tries its algorithms in the warm-up and takes the fastest of those that repeat
    themselves; false: the one that it deems best."""
    num_threads: int | None = None
    """Of torch on the CPU; null: its choice, one per core."""
    allocator: Allocator = Allocator.keep
    """keep: large blocks stay with the process when they are freed. system: the C library hands
    them back, and the kernel clears them again for the next use."""
    seed: int = 0
    repetition: int = 1
    """Which one this is, from 1; a sweep sets it."""
    repetitions: Any = 1
    """Times that each cell is measured, each in a process of its own; auto: until `target_rel_ci`
    is met."""
    target_rel_ci: float = 0.03
    """Half-width of the 95 % interval of a cell's mean net energy over that mean, for auto."""
    max_repetitions: int = 10
    """For auto."""
    order: Order = Order.shuffle
    """sequential: cell by cell as the command line has them, each with its repetitions in a row.
    blocked: the whole grid in that order, once per repetition. shuffle: the same in random order,
    another one each time, so that slow drift meets all factors alike."""
    order_seed: int | None = None
    """Of the random order; null: drawn, and logged with the sweep."""
    timeout_s: float | None = None
    """Longest time for a cell, waits included; null: any."""
    retries: int = 0
    """Further tries of a cell that was killed, ran over its time or lost its meter."""
    max_failures: int | None = None
    """Failed cells after which a sweep stops; null: never."""
    plan: bool = False
    """Say what the cells would take, and measure none."""
    machines: Any = "one"
    """Where a cluster's launcher runs the cells, so that those to be compared share a machine. one:
    all on the machine that the first is given. Names: each repetition of the whole grid on one of
    these, in turn. any: each cell wherever there is room, and to be compared with caution."""

    def __post_init__(self) -> None:
        for key in ("seed", "order_seed"):
            if isinstance(value := getattr(self, key), int):
                _require(0 <= value < 2**32, f"{key} is {value}; it must be 0 to 2**32 - 1")
        self._check_execution()
        self._check_repetitions()
        self._check_machines()
        _at_least("repetition", self.repetition, 1)
        _above_zero("target_rel_ci", self.target_rel_ci)
        _at_least("max_repetitions", self.max_repetitions, 3)
        _above_zero("timeout_s", self.timeout_s)
        _at_least("retries", self.retries, 0)
        _at_least("max_failures", self.max_failures, 1)

    @property
    def trains(self) -> bool:
        """Whether weights are updated at all."""
        if self.phase.kind is PhaseKind.profile:
            return self.target_epochs > 0
        return self.phase.kind is PhaseKind.train

    @property
    def infers(self) -> bool:
        """Whether inference is metered."""
        return self.phase.kind is not PhaseKind.train

    @property
    def target_epochs(self) -> int:
        """Epochs of the job that a profile tells of."""
        target = self.profile.target_epochs
        return self.phase.epochs if target is None else target

    def _check_execution(self) -> None:
        _at_least("num_threads", self.num_threads, 1)
        if self.hardware.device is Device.cpu:
            for key, needs_cuda in (
                ("precision=tf32", self.precision is Precision.tf32),
                ("cuda_graphs=true", self.cuda_graphs),
                ("cudnn_benchmark=true", self.cudnn_benchmark),
            ):
                _require(
                    not needs_cuda, f"{key} is of CUDA, and hardware.device is cpu: leave it out"
                )
        _require(
            not (self.compile and self.cuda_graphs),
            "compile=true and cuda_graphs=true are two ways for one thing: leave one of them out",
        )

    def _check_repetitions(self) -> None:
        given = self.repetitions
        _require(
            given == "auto" or (type(given) is int and given >= 1),
            f"repetitions is {given}; it must be a whole number, 1 or more, or auto",
        )

    def _check_machines(self) -> None:
        given = self.machines
        _require(
            given in ("one", "any") or bool(self.machine_names),
            f"machines is {given}; it must be one, any, or names: machines=[node1,node2]",
        )
        names = self.machine_names
        _require(len(set(names)) == len(names), f"machines is {given}; name each machine once")
        _require(
            len(names) < 2 or self.repetitions != "auto",
            "repetitions=auto measures a cell on one machine until its mean is known; give "
            f"machines one name, or each of the {len(names)} its own share: "
            f"repetitions={2 * len(names)}",
        )

    @property
    def machine_names(self) -> list[str]:
        """Machines of a cluster that the cells must run on; none: whichever it gives."""
        given = self.machines
        is_list = isinstance(given, list) and all(name and type(name) is str for name in given)
        return list(given) if is_list else []


ConfigStore.instance().store(name="schema", node=Config)


def from_omegaconf(composed: DictConfig) -> Config:
    """Turn what Hydra composed into a checked `Config`.

    Raises:
        ConfigError: a value is missing, cannot be resolved, or breaks a rule.
    """
    settings = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return _to_config(OmegaConf.to_container(settings))  # plain: a `+key` of no field is refused


def _to_config(settings: Any) -> Config:
    try:
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(_schema(), settings)))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; set it") from error
    except OmegaConfBaseException as error:
        raise ConfigError(first_line(error)) from error


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(Config))


def read_part(name: str, composed: DictConfig) -> Any:
    """One part of a `Config`, as `from_omegaconf` reads it; `composed` holds no other.

    Raises:
        ConfigError, OmegaConfBaseException: a value is missing, of a wrong type or breaks a rule.
    """
    typed = OmegaConf.merge(_schema_of(name), OmegaConf.to_container(composed))
    return getattr(OmegaConf.to_object(typed), name)


@cache
def _schema_of(part: str) -> DictConfig:
    [one] = [one for one in fields(Config) if one.name == part]
    return cast(DictConfig, OmegaConf.structured(make_dataclass("Part", [(part, one.type)])))


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, enums by name: what record.json and config.yaml hold."""
    return cast(dict[str, Any], _plain(asdict(config)))


def from_dict(settings: dict[str, Any]) -> Config:
    """The inverse of `to_dict`."""
    return _to_config(settings)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


UNSIGNED = {
    "mlflow",
    "quality",
    "carbon",
    "lock",
    "resume",
    "repetitions",
    "target_rel_ci",
    "max_repetitions",
    "order",
    "order_seed",
    "timeout_s",
    "retries",
    "max_failures",
    "plan",
    "machines",
}
"""Settings that leave a cell's result as it is."""


def signature(config: Config) -> str:
    """16 hex digits that two cells share when every setting that shapes the result is the same.

    Where results are stored, when they are doubted, what a joule costs and how a sweep goes about
    its cells is left out: it does not change them.
    """
    return _sign(to_dict(config), UNSIGNED)


def cell_signature(settings: dict[str, Any]) -> str:
    """What the repetitions of a cell share; `settings` is what `to_dict` makes of one of them."""
    return _sign(settings, UNSIGNED | {"repetition"})


def work(settings: dict[str, Any]) -> str:
    """What is computed, as JSON: equal for two cells whose joules and seconds can be compared.

    The machine, how it is metered and how often is left out, and where the data lies; and what may
    stop a training, for one that is not stopped does all of its work. One that is has a tag.
    """
    how = {"min_active_s", "warmup_batches", "folder", "placement"} | OF_PROFILES | OF_STOPS
    done = {
        group: {key: value for key, value in settings[group].items() if key not in how}
        for group in ("model", "batch_size", "phase", "dataset")
    }
    return json.dumps(done, sort_keys=True, separators=(",", ":"))


EXECUTION = (
    "precision",
    "memory_format",
    "compile",
    "cuda_graphs",
    "cudnn_benchmark",
    "num_threads",
    "allocator",
)
"""Settings of how the work is computed, not of what: what differs in them can be compared, and is
not pooled."""


def execution(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a cell; `settings` is what `to_dict` makes, and may be of before there were any."""
    return {key: settings[key] for key in EXECUTION if key in settings}


def job_signature(settings: dict[str, Any]) -> str:
    """16 hex digits that a profile shares with the full runs whose cost per sample it tells.

    Model, hardware, batch size, data and how it is computed; how long a run is, how it learns and
    how its idle windows lie does not change what a sample takes.
    """
    shared = {key: settings[key] for key in ("model", "hardware", "batch_size")}
    shared |= execution(settings)
    shared["dataset"] = {k: v for k, v in settings["dataset"].items() if k != "folder"}
    return _sign(shared, set())


def join_signatures(signatures: Iterable[str]) -> str:
    """One signature of several cells, whatever their order."""
    return hashlib.sha256(" ".join(sorted(signatures)).encode()).hexdigest()[:16]


def with_repetition(config: Config, repetition: int) -> Config:
    """The same cell, once more."""
    return replace(config, repetition=repetition)


OF_PROFILES = {"stretch_s", "target_rel_ci", "min_stretches", "max_stretches"}
"""Settings of `phase` that no other kind of phase has a use for."""
OF_STOPS = {"stop_early", "stop_after_epochs", "stop_below_accuracy"}
"""The same of training, where `stop_early` is on; where it is off they change nothing."""


def _sign(settings: dict[str, Any], left_out: set[str]) -> str:
    signed = {key: value for key, value in settings.items() if key not in left_out}
    if phase := signed.get("phase"):
        unused = set() if phase["kind"] == PhaseKind.profile.name else OF_PROFILES
        if not (phase["kind"] == PhaseKind.train.name and phase.get("stop_early")):
            unused = unused | OF_STOPS
        signed["phase"] = {key: value for key, value in phase.items() if key not in unused}
        if unused >= OF_PROFILES:
            signed.pop("profile", None)
    canonical = json.dumps(signed, sort_keys=True).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.name if isinstance(value, Enum) else value
