"""What a cell would take here, without running it: `python -m greenlab.estimate model=…`.

Told from the cells that MLflow has of this machine, by regressions on what models weigh; the asked
model is built and counted on the CPU. Without a model, or with --scores, it prints how well each
predictor tells models that were left out. Exits with 1 where it refuses, and says why.
"""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from greenlab import grid
from greenlab.config import Config, Device, PhaseKind, execution, to_dict, work
from greenlab.errors import GreenlabError
from greenlab.terminal import open_console

if TYPE_CHECKING:  # pandas, scipy, MLflow and torch: seconds that --help does not wait for
    from pandas import DataFrame

    from multirun_analysis.estimates import Answer, Scores, Share
    from multirun_analysis.regression import Interval

EXAMPLES = """examples:
  python -m greenlab.estimate model=resnet18 batch_size=128 phase=inference
  python -m greenlab.estimate model=resnet18,vgg16 phase=train --machine hc3
  python -m greenlab.estimate model=resnet18 phase=profile profile.target_epochs=100 \\
      profile.target_inferences=1000000 carbon.country=FRA carbon.price_per_kwh=0.3
  python -m greenlab.estimate --config-dir my_conf model=mine --json
  python -m greenlab.estimate --scores batch_size=128         how well each predictor tells
"""
PHASES = ("train", "inference")
JOB = ("profile.target_epochs=", "profile.target_inferences=", "phase.epochs=")
"""Overrides that ask for the totals of a job."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the estimates; see the module for the exit code."""
    chosen = _parser().parse_intermixed_args(arguments)  # options among overrides, as Hydra has it
    logging.getLogger("greenlab.model_profile").setLevel(logging.ERROR)  # a count is all it is for
    problems: list[str] = []
    # What a builder prints is not to come between a program and its JSON.
    with redirect_stdout(sys.stderr), grid.open_options(chosen.config_dir):
        try:
            grid.adopt_own_options(grid.compose_hydra(chosen.overrides))
            if chosen.scores or not _sets(chosen.overrides, "model="):
                found: Sequence[_Page] = _score(chosen, problems)
            else:
                found = _estimate(chosen, problems)
        except GreenlabError as error:
            found, problems = [], [str(error)]
    if chosen.json:
        print(json.dumps([page.to_json() for page in found], indent=2, ensure_ascii=False))
    else:
        for page in found:
            page.show()
    for problem in dict.fromkeys(problems):
        print(f"greenlab: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m greenlab.estimate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--machine", help="whose cells tell, by its name; default: this one's")
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", help="default: mlflow.experiment, greenlab")
    parser.add_argument("--sweep", default="all", help="only cells of this one; default: all")
    parser.add_argument("--where", help="only cells of which this holds: \"dataset == 'cifar10'\"")
    parser.add_argument("--config-dir", type=_folder, metavar="DIR", help="options of your own")
    parser.add_argument("--scores", action="store_true", help="how well each predictor tells")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "overrides", nargs="*", help="as for python -m greenlab: model=… batch_size=… phase=…"
    )
    return parser


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def _sets(overrides: Sequence[str], *keys: str) -> bool:
    return any(override.lstrip("+").startswith(keys) for override in overrides)


def _machine(chosen: argparse.Namespace) -> str:
    from greenlab.environment import describe_environment

    return str(chosen.machine or describe_environment().machine)


def _cells(chosen: argparse.Namespace, config: Config) -> "DataFrame":
    """All usable cells of the store.

    Raises:
        GreenlabError: no such store, experiment or sweep.
    """
    from multirun_analysis import runs

    uri = chosen.tracking_uri or config.mlflow.tracking_uri
    experiment = chosen.experiment or config.mlflow.experiment
    return runs.load(uri, experiment, chosen.sweep, chosen.where).cells


class _Page(Protocol):
    def show(self) -> None: ...
    def to_json(self) -> dict[str, Any]: ...


# ----------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    scores: "Scores"

    def show(self) -> None:
        from multirun_analysis import estimate_text

        console = open_console()
        for table in estimate_text.scores_table(self.scores):
            console.print(table)
        told = [estimate_text.LEGEND]
        if self.scores.modelled:
            told.append(estimate_text.IN_ANOTHER_GUISE.format(components=self.scores.modelled))
        for line in told:
            console.print(line, highlight=False, markup=False)

    def to_json(self) -> dict[str, Any]:
        from multirun_analysis import estimate_text

        return estimate_text.scores_json(self.scores)


def _score(chosen: argparse.Namespace, problems: list[str]) -> list[_Scored]:
    """Score the predictors of every phase, or of the one that is named."""
    from multirun_analysis import estimates

    config = grid.compose_one(chosen.overrides)
    cells, machine = _cells(chosen, config), _machine(chosen)
    size = config.batch_size.size if _sets(chosen.overrides, "batch_size=") else None
    found = []
    for phase in _phases(config) if _sets(chosen.overrides, "phase=") else PHASES:
        try:
            found.append(_Scored(scores=estimates.score(cells, machine, phase, size)))
        except GreenlabError as error:
            problems.append(str(error))
    return found


# -------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True, kw_only=True, slots=True)
class _Estimated:
    overrides: list[str]
    config: Config
    answers: list["Answer"]
    shares: list["Share"]
    """Of the job that was asked for; none: only costs per sample were."""

    def show(self) -> None:
        from multirun_analysis import estimate_text

        console = open_console()
        told: list[str] = []
        for answer in self.answers:
            console.print(estimate_text.headline(answer), highlight=False, markup=False)
            for line in estimate_text.lines(answer):
                console.print(line, highlight=False, markup=False)
            console.print(estimate_text.predictors_table(answer))
            told += estimate_text.notes(answer)
        if self.shares:
            console.print(f"The whole job: {self._job_text()}", highlight=False, markup=False)
            mark = "~" if any(share.answer.modelled for share in self.shares) else ""
            for name, (cost, unit) in self._totals().items():
                line = estimate_text.job_line(name, cost, unit, "" if name == "time" else mark)
                console.print(line, highlight=False, markup=False)
        for line in dict.fromkeys([estimate_text.LEGEND, *told]):
            console.print(line, highlight=False, markup=False)

    def _job_text(self) -> str:
        parts = [f"{s.num_samples:,.0f} samples of {s.answer.question.phase}" for s in self.shares]
        return ", ".join(parts)

    def _totals(self) -> dict[str, tuple["Interval", str]]:
        """By name: the total, and its unit."""
        from multirun_analysis.estimate_text import QUANTITIES
        from multirun_analysis.estimates import total

        found = {}
        for quantity, (name, unit) in QUANTITIES.items():
            if (cost := total(self.shares, quantity)) is not None:
                found[name] = cost, unit
        if "gross" in found:
            gross, carbon = found["gross"][0], self.config.carbon
            for name, of, unit in (
                ("CO2e", carbon.tariff.co2e_g, "g"),
                ("cost", carbon.tariff.cost, carbon.currency),
            ):
                if (billed := _billed(gross, of)) is not None:
                    found[name] = billed, unit
        return found

    def to_json(self) -> dict[str, Any]:
        from multirun_analysis import estimate_text

        return {
            "overrides": self.overrides,
            "estimates": [estimate_text.to_json(answer) for answer in self.answers],
            "job": [
                {"phase": share.answer.question.phase, "num_samples": share.num_samples}
                for share in self.shares
            ],
            "totals": {
                name: {**asdict(cost), "unit": unit}
                for name, (cost, unit) in self._totals().items()
            },
        }


def _billed(gross_j: "Interval", of: Callable[[float], float | None]) -> "Interval | None":
    """What a tariff makes of an energy; None where it has no price."""
    ends = [of(joules) for joules in (gross_j.value, gross_j.low, gross_j.high)]
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return None
    return replace(gross_j, value=known[0], low=known[1], high=known[2])


def _estimate(chosen: argparse.Namespace, problems: list[str]) -> list[_Estimated]:
    """Estimate cell by cell; what stands in the way is added to `problems`."""
    from multirun_analysis import estimates

    asked = [(overrides, grid.compose_one(overrides)) for overrides in grid.split(chosen.overrides)]
    cells, machine = _cells(chosen, asked[0][1]), _machine(chosen)
    found = []
    for overrides, config in asked:
        try:
            predictors, is_frozen = _count(config)
            answers = []
            for phase in _phases(config):
                question = estimates.Question(
                    model=_model(overrides, config),
                    work=_work(config, phase),
                    predictors=predictors,
                    is_frozen=is_frozen,
                    machine=machine,
                    device=_device(config),
                    power_limit_w=config.hardware.power_limit_w,
                    execution=_execution(config),
                    grid=_grid(chosen, overrides, config, phase),
                )
                answers.append(estimates.answer(cells, question))
        except GreenlabError as error:
            problems.append(f"{' '.join(overrides)}: {error}")
            continue
        shares = []
        try:
            shares = _shares(config, answers) if _sets(overrides, *JOB) else []
        except GreenlabError as error:  # the costs per sample are known all the same
            problems.append(f"{' '.join(overrides)}: no total of the job: {error}")
        page = _Estimated(overrides=overrides, config=config, answers=answers, shares=shares)
        found.append(page)
    return found


def _phases(config: Config) -> tuple[str, ...]:
    """A profile's job has both, its test after training being inference."""
    if config.phase.kind is not PhaseKind.profile:
        return (config.phase.kind.name,)
    return PHASES if config.target_epochs else PHASES[1:]


def _model(overrides: Sequence[str], config: Config) -> str:
    named = [one.removeprefix("model=") for one in overrides if one.startswith("model=")]
    return named[-1] if named else config.model._target_


def _device(config: Config) -> str:
    return "" if config.hardware.device is Device.auto else config.hardware.device.name


def _execution(config: Config) -> dict[str, str]:
    chosen = {name: str(value).lower() for name, value in execution(to_dict(config)).items()}
    return {name: value for name, value in chosen.items() if value not in ("auto", "none")}


def _work(config: Config, phase: str) -> dict[str, dict[str, object]]:
    settings: dict[str, dict[str, object]] = json.loads(work(to_dict(config)))
    settings["phase"]["kind"] = phase
    return settings


def _grid(chosen: argparse.Namespace, overrides: Sequence[str], config: Config, phase: str) -> str:
    """The command that measures the models of the configuration as the asked one would be."""
    not_of_it = ("model", "batch_size", "phase", "profile", "carbon", "mlflow")
    kept = [one for one in overrides if not one.lstrip("+").startswith(not_of_it)]
    own = ["--config-dir", str(chosen.config_dir)] if chosen.config_dir else []
    size = f"batch_size={config.batch_size.size}"
    return shlex.join(
        ["python", "-m", "greenlab", *own, "-m", "model=glob(*)", size, f"phase={phase}", *kept]
    )


def _count(config: Config) -> tuple[dict[str, float], bool]:
    """What the asked model weighs, by predictor, and whether a part of it is frozen.

    Raises:
        GreenlabError: it cannot be built or counted, or does not take the data's shape.
    """
    import torch

    from greenlab.model_profile import profile_model
    from greenlab.network import build_model, check_output, contained

    data = config.dataset
    sample = torch.zeros(1, data.num_channels, data.image_size, data.image_width or data.image_size)
    with contained():
        network = build_model(config.model, data.num_classes)
        check_output(network, sample, config)
        profile = profile_model(network, sample)
    counted = {
        "macs": profile.macs,
        "macs_exact": profile.macs_exact,
        "parameters": profile.parameters,
        "macs_per_parameter": profile.macs_per_parameter,
        "activation_bytes": profile.activation_bytes,
    }
    known = {name: float(value) for name, value in counted.items() if value is not None}
    return known, profile.trainable_parameters < profile.parameters


def _shares(config: Config, answers: Sequence["Answer"]) -> list["Share"]:
    """The job that the configuration describes, as a profile's (prediction.py).

    Raises:
        GreenlabError: its passes are as long as the data, and the data cannot be loaded.
    """
    from multirun_analysis.estimates import Share

    of = {answer.question.phase: answer for answer in answers}
    is_profile, inferences = len(answers) > 1, config.profile.target_inferences
    shares = []
    if "train" in of and config.target_epochs:
        num_train, num_test = _pass_lengths(config)
        shares.append(Share(answer=of["train"], num_samples=config.target_epochs * num_train))
        if is_profile:
            shares.append(Share(answer=of["inference"], num_samples=num_test))
    if "inference" in of and inferences != 0:
        num = _pass_lengths(config)[1] if inferences is None else inferences
        shares.append(Share(answer=of["inference"], num_samples=num))
    return shares


def _pass_lengths(config: Config) -> tuple[int, int]:
    """Samples of a pass of training and of inference."""
    from greenlab import data

    if (num := config.dataset.num_samples) is not None:
        return num, num
    loaded = data.load(config.dataset, config.seed)
    return len(loaded.train), len(loaded.test) * config.dataset.replicate_test


if __name__ == "__main__":
    raise SystemExit(main())
