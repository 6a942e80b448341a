"""The vocabulary of results: what a cell leaves behind, how it is stored, what metrics it has.

A record holds raw readings (windows, counts, environment); net energy, power and joules per sample
are properties and functions, computed again whenever a record is read. It is written to disk, all
or nothing, before anything else hears of the cell.
"""

import json
import math
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from greenlab import energy
from greenlab.energy import EnergyWindow
from greenlab.errors import GreenlabError, MeterReadError, MeterUnavailableError
from greenlab.uncertainty import Bracket, PowerSeries, Readout, net_u95_j

SCHEMA_VERSION = 3
"""Raised when a field changes its meaning; readers refuse what they do not know."""

RECORD_FILE = "record.json"
CELL_FILE = "cell.json"
"""Written before a cell starts, so that one that dies without a record can still be named."""
SWEEP_FILE = "sweep.json"
"""In the folder of a multirun that has ended: what came of it."""
CONFIG_FILE = "config.yaml"
WINDOWS_FILE = "windows.jsonl"
"""Each window as soon as it is closed: what a cell that fails later has measured until then."""
ACCOUNT_FILE = "account.log"
"""Where the joules of the cell's whole life went, kept up to date while it runs; see account.py."""
TRACE_FILE = "trace.parquet"
POWER_FILE = "power.png"
LOG_FILE = "greenlab.log"

SIMULATED = "simulated-"
"""Before the name of a machine whose counters are greenlab.simulated's."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
Verdict = Literal["PASS", "WARN", "INVALID"]
Severity = Literal["information", "warning", "invalid"]
FailureKind = Literal["oom", "nan", "timeout", "killed", "error"]
"""Out of memory, a loss that is no number, over its time, ended from outside, anything else."""
PlacementName = Literal["resident", "streamed"]
StageName = Literal["loading", "compiling", "warm_up", "settling", "idle", "active", "evaluation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What the first cell of a sweep found; the others are held against it."""

    machine: str = ""
    """Empty until that cell has ended."""
    commit: str = ""
    """Of greenlab's checkout; empty where it is not one."""
    idle_celsius: dict[str, float] = field(default_factory=dict)
    """By GPU, as its first idle window began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A training that another cell of the sweep has finished: part of the front to reach."""

    uid: str
    name: str
    machine: str
    device: str
    provenance: dict[str, str]
    """By component; absent ones too."""
    job: str
    """What it shares with those whose epochs are the same work: config.job_signature."""
    num_epochs: int
    accuracy: float
    """On the test split, after the last epoch."""
    training_accuracy: float
    """Mean over the last epoch."""
    net_j: float | None
    """None where nothing was metered."""
    net_u95_j: float
    """95 % half-width. Where all is modelled it is 0: the model's error is one factor on this cell
    and on that which is held against it."""

    @property
    def gap(self) -> float:
        """What test accuracy has over training accuracy."""
        return self.accuracy - self.training_accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Which cell this is: the options chosen, and its place in the sweep."""

    uid: str
    """Names one measured cell for ever; what is logged twice under it is logged once."""
    signature: str
    choices: dict[str, str]
    """Option names by group: model, hardware, batch_size, phase, dataset, experiment."""
    overrides: list[str]
    sweep: str
    """Name of the multirun; empty for a cell that was run alone."""
    position: int
    """1 for the first cell of its sweep."""
    num_cells: int
    repetition: int
    started_at_s: float
    """Unix time."""
    config: dict[str, Any]
    attempt: int = 1
    """2 for the first further try of a cell that failed, and so on."""
    sweep_first: Claim = field(default_factory=Claim)
    """What the sweep's first cell found; nothing for that cell itself."""
    rivals: list[Rival] = field(default_factory=list)
    """What finished before it in its sweep, for a training with `phase.stop_early`."""
    node: str = ""
    """The name that a cluster has for the machine; empty where no cluster was asked."""
    allocation: str = ""
    """What the cluster calls the task that ran it: `slurm 17_3`."""

    @property
    def is_profile(self) -> bool:
        """Whether its passes are short stretches of training and of inference."""
        return bool(self.config.get("phase", {}).get("kind") == "profile")

    @property
    def name(self) -> str:
        """What people call it: `resnet18-32-train`, and `-r2` behind it the second time."""
        chosen = [self.choices.get(key, "") for key in ("model", "batch_size", "phase")]
        return "-".join(chosen + [f"r{self.repetition}"] * (self.repetition > 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What meters one component, decided before the first joule."""

    component: str
    provenance: str
    """measured:nvml, measured:nvml_power, measured:rapl, modelled:tdp, modelled:dimm or absent."""
    detail: str
    """The devices read, or the numbers that the model uses."""
    reason: str
    """Why this and nothing better; empty where there is nothing better."""
    parts: list[str]
    """The devices whose counters add up to the component: gpu0, gpu1, …"""
    error_fraction: float | None = None
    """Half-width of a 95 % interval over the component's gross energy, where it is modelled; None
    where the counter's own error is worked out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stretch of a cell's life."""

    name: StageName
    duration_s: float
    energy_j: dict[str, float]
    """Joules by component; one that was not metered has no key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Where the joules of a cell went, from opening its meter to its record or its end."""

    sources: list[Source]
    started_at_s: float
    """Unix time."""
    stages: list[Stage]
    """In order of time, without gaps: one ends with the reading that the next begins with."""

    @property
    def duration_s(self) -> float:
        """All stages together."""
        return sum(stage.duration_s for stage in self.stages)

    @property
    def ended_at_s(self) -> float:
        """Unix time of the last reading."""
        return self.started_at_s + self.duration_s

    @property
    def energy_j(self) -> dict[str, float]:
        """Joules by component, all stages together."""
        metered = [source.component for source in self.sources if source.parts]
        return {c: sum(stage.energy_j[c] for stage in self.stages) for c in metered}

    @property
    def stage_j(self) -> dict[str, float]:
        """Joules by name of stage, all components together."""
        names = dict.fromkeys(stage.name for stage in self.stages)
        return {
            name: sum(energy.total(s.energy_j) for s in self.stages if s.name == name)
            for name in names
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooling:
    """The wait before an idle window until the GPUs had cooled down."""

    waited_s: float
    """Beyond `idle.settle_s`."""
    reached: bool
    """Whether they had; false where `idle.settle_max_s` ended the wait."""
    celsius: dict[str, float]
    """By GPU: how warm it was after the wait; one that does not tell has no key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterHealth:
    """How one counter behaved from the first idle window to the last."""

    part: str
    range_j: float | None
    tick_s: float
    """Time between two advances, as observed; without a tick, the longest time between readings."""
    ticks: bool
    """Whether it advances by itself; polled power and models advance when they are read."""
    quantum_j: float
    num_wraps: int
    num_resets: int
    longest_gap_s: float
    """Longest time between two readings: a counter that wraps twice in it has lost a range."""
    longest_still_s: float
    """Longest time without an advance."""
    peak_w: float
    """Highest mean power between two readings at least 50 ms apart."""

    @property
    def readout(self) -> Readout:
        """How finely it can be read."""
        return Readout(tick_s=self.tick_s, ticks=self.ticks, quantum_j=self.quantum_j)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a pass over samples did, apart from drawing power."""

    num_samples: int
    num_batches: int
    loss: float
    """Mean cross-entropy over the samples."""
    accuracy: float
    """Fraction of the samples classified correctly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One metered stretch of the workload."""

    window: EnergyWindow
    outcome: Outcome
    trains: bool | None = None
    """Whether weights were updated; None in records of before profiles: as the phase says."""

    def describe(self, modelled: Collection[str]) -> str:
        """A pass for the log, `~` before what is modelled."""
        done = self.outcome
        return (
            f"{energy.describe(self.window, modelled)}; {done.num_samples} samples, "
            f"loss {done.loss:.4f}, accuracy {done.accuracy:.4f}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelProfile:
    """What a model weighs, and what one sample costs it."""

    parameters: int
    trainable_parameters: int
    parameter_bytes: int
    buffer_bytes: int
    macs: int
    """Multiply-accumulates of one sample's forward pass, by thop."""
    macs_exact: int
    """Those of convolutions and matrix products alone, by torch's FlopCounterMode, halved."""
    uncounted_layers: tuple[str, ...]
    """Layer types that thop has no rule for and counted as zero."""
    activation_bytes: int | None = None
    """Of all tensors that leaf modules return in one sample's forward pass, in evaluation.

    A leaf module has no modules within it. Each call counts in full, one that works in place or
    returns a view as well; what a forward computes outside of modules (sums, concatenations,
    `functional.relu`) does not. None in records of before it was counted.
    """

    @property
    def size_bytes(self) -> int:
        """Parameters and buffers, as loaded."""
        return self.parameter_bytes + self.buffer_bytes

    @property
    def macs_per_parameter(self) -> float:
        """The paper's predictor of energy: MACs over trainable parameters, as its code has it.

        A model with nothing left to train is taken over all its parameters; NaN where it has none.
        """
        parameters = self.trainable_parameters or self.parameters
        return self.macs / parameters if parameters else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One NVIDIA GPU as NVML describes it."""

    index: int
    name: str
    uuid: str
    memory_bytes: int | None
    power_limit_w: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The machine and the software that a cell ran on."""

    machine: str
    """Name of the machine, unlike any other's: results of two machines are never pooled."""
    hostname: str
    platform: str
    cpu_name: str
    num_cores: int
    num_logical_cpus: int
    memory_bytes: int
    gpus: list[Gpu]
    driver: str
    """NVIDIA driver version; empty without one."""
    versions: dict[str, str]
    commit: str
    """Commit of greenlab's checkout, `+` where it has changes; empty where it is not one."""
    is_virtual: bool
    """A virtual machine, by the CPU's own word."""
    governor: str
    """Of the CPUs' frequency, `performance` or another; empty where the machine has none."""
    has_turbo: bool | None
    """Whether the CPUs may exceed their base frequency; None where the machine does not say."""

    @property
    def is_simulated(self) -> bool:
        """Whether its counters are greenlab's own simulation."""
        return self.machine.startswith(SIMULATED)


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSummary:
    """What the sampler saw during the passes; the whole trace is in trace.parquet."""

    num_samples: int
    longest_gap_s: float
    mean: dict[str, float]
    """Mean over the passes by metric name: `utilisation/cpu_percent` …"""
    idle_mean: dict[str, float]
    """The same over the idle windows."""
    active_rise_celsius: dict[str, float]
    """By GPU: how much warmer it was in the last tenth of the passes than in the first."""
    idle_fall_celsius: dict[str, float]
    """By GPU: how much cooler it got in an idle window, the greater of the two."""
    power_limits_w: dict[str, list[float]]
    """By GPU: the power limits in force during the cell, in ascending order; one, as a rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The state of the machine at an instant outside the windows."""

    unix_offset_s: float
    """Wall clock less monotonic clock: changes where somebody sets the clock."""
    suspended_s: float
    """Boot-time clock less monotonic clock: grows while the machine is suspended."""
    swapped_bytes: int
    """Swapped in and out since the machine started."""
    load_average: float
    """Of the last minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How the work was computed; the settings of the same names in config.py, `auto` decided."""

    precision: str
    memory_format: str
    compile: bool
    cuda_graphs: bool
    cudnn_benchmark: bool
    num_threads: int
    """Of torch on the CPU."""
    allocator: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Splits:
    """How long one pass is."""

    train_samples: int
    test_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppedEarly:
    """Why a training was ended before its last epoch: what was foretold of it then."""

    after_epochs: int
    planned_epochs: int
    accuracy: float
    """Median of what the test would have shown after all epochs."""
    accuracy_low: float
    """With `accuracy_high`, a 95 % prediction interval; see promise.py."""
    accuracy_high: float
    rival: Rival | None
    """More accurate, and took no more energy; None where `below_accuracy` is the reason."""
    below_accuracy: float | None
    """`phase.stop_below_accuracy`, where that is the reason."""
    least_net_j: float | None
    """Lower end of what all epochs would have taken, where that was held against the rival's; None
    where the rival did the same work, and no more of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Everything that was metered in one cell, raw."""

    device: str
    sources: list[Source]
    model: ModelProfile
    idle_before: EnergyWindow
    idle_after: EnergyWindow
    passes: list[Pass]
    evaluation: Outcome
    """On the test split: after the last epoch when training, unmetered; else the pass itself."""
    idle_series: tuple[PowerSeries, PowerSeries]
    """Power by device over the idle windows, before and after."""
    active_series: PowerSeries
    """The same over the passes."""
    cooling: tuple[Cooling, Cooling]
    """Before each idle window."""
    counters: list[CounterHealth]
    trace: TraceSummary
    conditions: tuple[Conditions, Conditions]
    """Before the first idle window and after the last."""
    mismatches: list[str]
    """Where the hardware is not what the configuration names (`hardware.strict=false`)."""
    splits: Splits | None = None
    """None in records of before profiles."""
    stopped_early: StoppedEarly | None = None
    """None where all was done that was planned."""
    placement: PlacementName = "resident"
    """Where the images were; all were resident before it could be chosen."""
    execution: Execution | None = None
    """None in records of before it could be chosen: fp32 and contiguous, but for CUDA's
    convolutions, which rounded to tf32 as PyTorch has it."""

    @property
    def idle_windows(self) -> tuple[EnergyWindow, EnergyWindow]:
        """Before and after the passes."""
        return self.idle_before, self.idle_after

    @property
    def active(self) -> EnergyWindow:
        """All passes, end to end."""
        return energy.join([one.window for one in self.passes])

    @property
    def idle_w(self) -> dict[str, float]:
        """Idle power by component."""
        return energy.idle_power_w(self.idle_windows)

    @property
    def num_samples(self) -> int:
        """Samples processed in all passes together."""
        return sum(one.outcome.num_samples for one in self.passes)

    def net_u95_j(self, *components: str) -> float | None:
        """95 % half-width of the net energy of these components together; see uncertainty.py.

        None where it cannot be told: the idle windows hold too few samples.
        """
        bracket = Bracket(
            active=self.active,
            idle=self.idle_windows,
            series=self.idle_series,
            active_series=self.active_series,
            parts={source.component: source.parts for source in self.sources if source.parts},
            readouts={counter.part: counter.readout for counter in self.counters},
            model_error_fraction={
                source.component: source.error_fraction
                for source in self.sources
                if source.error_fraction is not None
            },
        )
        return net_u95_j(bracket, components)

    @property
    def modelled_components(self) -> list[str]:
        """Those that a model stands in for."""
        return [s.component for s in self.sources if s.provenance.startswith("modelled")]

    @property
    def measured_components(self) -> list[str]:
        """Those that a counter or a power sensor metered."""
        return [s.component for s in self.sources if s.provenance.startswith("measured")]

    @property
    def is_modelled(self) -> bool:
        """Whether the totals hold a component that no counter metered."""
        return bool(self.modelled_components)

    @property
    def mark(self) -> str:
        """What stands before a total that holds modelled energy."""
        return "~" if self.is_modelled else ""

    @property
    def coverage(self) -> str:
        """The components that the totals hold: `gpu+cpu+dram`."""
        return "+".join(c for c in ("gpu", "cpu", "dram") if c in self.active.energy_j)


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """A reason not to take a number at its face."""

    code: str
    seen: str
    """What is wrong, in figures."""
    remedy: str
    """What would mend it."""
    limit: str = ""
    """The threshold that was passed, and where it comes from; empty where there is none."""
    severity: Severity = "warning"
    """information: worth knowing. invalid: the joules are wrong, not merely uncertain."""

    @property
    def message(self) -> str:
        """All of it in a sentence or two."""
        limit = f" (limit: {self.limit})" if self.limit else ""
        return f"{self.seen}{limit}. {self.remedy}"


METER_ERRORS = (MeterReadError.__name__, MeterUnavailableError.__name__)
"""Counters were there when the sweep was checked: one that goes later may come back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a cell has no result."""

    kind: FailureKind
    message: str
    exception: str = ""
    """Name of the exception's class; empty where the cell ended without one."""

    @property
    def is_transient(self) -> bool:
        """Whether the same cell may well succeed when it is tried again."""
        return self.kind in ("killed", "timeout") or self.exception in METER_ERRORS


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One cell's life, as record.json holds it."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")  # a NaN loss is a result too

    schema_version: int = SCHEMA_VERSION
    status: Status
    cell: Cell
    ended_at_s: float
    environment: Environment | None = None
    measurement: Measurement | None = None
    doubts: list[Doubt] = field(default_factory=list)
    failure: Failure | None = None
    account: Account | None = None
    """None where a cell ended before its meter was open."""

    @property
    def sources(self) -> list[Source]:
        """What metered it; empty where it ended before its meter was open."""
        metered = self.measurement or self.account
        return metered.sources if metered else []

    @property
    def mark(self) -> str:
        """What stands before its joules, useful or wasted, where some are modelled."""
        return "~" if any(s.provenance.startswith("modelled") for s in self.sources) else ""

    @property
    def origin(self) -> tuple[str, ...]:
        """Machine and provenance of each component: only what shares them may be averaged."""
        machine = self.environment.machine if self.environment else ""
        return machine, *(f"{source.component}={source.provenance}" for source in self.sources)

    @property
    def verdict(self) -> Verdict:
        """PASS without a warning, INVALID where the joules are wrong, else WARN."""
        severities = {doubt.severity for doubt in self.doubts}
        if self.measurement is None or "invalid" in severities:
            return "INVALID"
        return "WARN" if "warning" in severities else "PASS"

    @property
    def warnings(self) -> list[Doubt]:
        """The doubts that count towards the verdict."""
        return [doubt for doubt in self.doubts if doubt.severity != "information"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRun:
    """The run that stands for a multirun; all but `run_id` are its tags."""

    run_id: str
    name: str
    grid: str
    """What it shares with every sweep of the same cells."""
    overrides: str
    num_cells: int
    repetitions: str
    order: str
    order_seed: int
    folder: str
    """Of its cells, on `host`."""
    host: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepEnd:
    """What came of a multirun, for the run that stands for it."""

    begun: SweepRun
    status: Status
    ended_at_s: float
    table: str
    """Markdown."""
    ledger: dict[str, Any]
    metrics: dict[str, float]


_RECORD = TypeAdapter(Record)
_WINDOW = TypeAdapter(EnergyWindow)
_CELL = TypeAdapter(Cell)
_SWEEP = TypeAdapter(SweepEnd)
_CLAIM = TypeAdapter(Claim)


def write_record(folder: Path, record: Record) -> None:
    """Write record.json, atomically and durably."""
    _write(folder / RECORD_FILE, _RECORD.dump_json(record, indent=2))


def read_record(folder: Path) -> Record:
    """Read record.json.

    Raises:
        GreenlabError: it is damaged, or of a schema that this version does not know.
    """
    path = folder / RECORD_FILE
    try:
        stored = json.loads(path.read_bytes())
        version = stored.get("schema_version")
        if version == SCHEMA_VERSION:
            return _RECORD.validate_python(stored)
    except (ValueError, AttributeError) as error:  # pydantic's refusals are ValueErrors
        raise GreenlabError(f"{path} is not a record that this greenlab reads: {error}") from error
    raise GreenlabError(
        f"{path} has schema version {version}, this greenlab reads {SCHEMA_VERSION}; read it with "
        "the greenlab that wrote it"
    )


def append_window(folder: Path, name: str, window: EnergyWindow) -> None:
    """Add a window, `idle_before`, `pass` or `idle_after`, to windows.jsonl, with every digit."""
    with (folder / WINDOWS_FILE).open("a") as file:
        file.write(json.dumps({"window": name} | _WINDOW.dump_python(window)) + "\n")


def write_cell(folder: Path, cell: Cell) -> None:
    """Write cell.json, atomically and durably."""
    _write(folder / CELL_FILE, _CELL.dump_json(cell, indent=2))


def read_cell(folder: Path) -> Cell:
    """Read cell.json."""
    return _CELL.validate_json((folder / CELL_FILE).read_bytes())


def cell_folders(folder: Path) -> list[Path]:
    """The folders of all cells in `folder`, at any depth: model=own/tiny makes one in another."""
    found = []
    for place, inner, files in os.walk(folder):
        if CELL_FILE in files:
            found.append(Path(place))
            inner.clear()  # no cell lies in another one's folder
    return sorted(found)


def write_claim(path: Path, claim: Claim) -> None:
    """Write down what a sweep's first cell found."""
    _write(path, _CLAIM.dump_json(claim))


def read_claim(path: Path) -> Claim:
    """The inverse of `write_claim`; nothing where no cell has ended yet."""
    written = path.read_bytes() if path.exists() else b""
    return _CLAIM.validate_json(written) if written else Claim()


def write_sweep(folder: Path, end: SweepEnd) -> None:
    """Write sweep.json, atomically and durably."""
    _write(folder / SWEEP_FILE, _SWEEP.dump_json(end, indent=2))


def read_sweep(folder: Path) -> SweepEnd:
    """Read sweep.json."""
    return _SWEEP.validate_json((folder / SWEEP_FILE).read_bytes())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)  # makes the new name itself durable
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
