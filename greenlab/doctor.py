"""Says what can be measured on this machine, and how to get the rest: `python -m greenlab.doctor`.

Exits with 0 when every component that `hardware=auto` asks for is measured or not there, with 3
when one is only modelled, or there and not readable.
"""

import argparse

from rich.table import Table

from greenlab import tracking
from greenlab.config import Hardware, Mlflow
from greenlab.environment import describe_environment
from greenlab.errors import GreenlabError
from greenlab.meters import choose_sources
from greenlab.meters.zeus_counters import CHMOD_COMMAND, UDEV_RULE
from greenlab.record import Environment, Source
from greenlab.terminal import open_console

ONLY_MODELLED = 3


def main() -> int:
    """Print the tables; see the module for the exit code."""
    argparse.ArgumentParser(prog="python -m greenlab.doctor", description=__doc__).parse_args()
    console = open_console()
    environment = describe_environment()
    # A cell on CUDA meters the one GPU it uses; here every visible one is looked at.
    sources = [opened.source for opened in choose_sources(Hardware(), uses_cuda=False)]
    console.print(_components(sources))
    for remedy in remedies(sources):
        console.print(remedy, highlight=False, soft_wrap=True)
    console.print(_machine(environment))
    return exit_code(sources, environment)


def exit_code(sources: list[Source], environment: Environment) -> int:
    """3 where a component is only modelled, or there and not readable; else 0."""
    lacking = any(
        source.provenance.startswith("modelled")
        or "not readable" in source.reason
        or (source.component == "gpu" and source.provenance == "absent" and environment.gpus)
        for source in sources
    )
    return ONLY_MODELLED if lacking else 0


def remedies(sources: list[Source]) -> list[str]:
    """What the user can do for each component that is not measured."""
    found = []
    if any("not readable" in source.reason for source in sources):
        found.append(f"To read RAPL until the next boot:\n  {CHMOD_COMMAND}")
        found.append(f"For good, for a group (log in again afterwards):\n  {UDEV_RULE}")
    cpu = next(source for source in sources if source.component == "cpu")
    if cpu.provenance == "modelled:tdp" and "assumed" in cpu.detail:
        found.append(
            "The TDP is assumed from the number of cores. Give the CPU's own (its data sheet has "
            "it), all sockets together: hardware.tdp_w.cpu=65"
        )
    return found


def _components(sources: list[Source]) -> Table:
    table = Table(title="What meters this machine (hardware=auto)", title_justify="left")
    for column in ("component", "provenance", "read from", "why nothing better"):
        table.add_column(column, overflow="fold")
    for source in sources:
        colour = {"measured": "green", "modelled": "yellow"}.get(
            source.provenance.partition(":")[0], "dim"
        )
        provenance = f"[{colour}]{source.provenance}[/]"
        table.add_row(source.component, provenance, source.detail or "–", source.reason or "–")
    return table


def _machine(environment: Environment) -> Table:
    table = Table(title="Machine", title_justify="left", show_header=False)
    rows = {
        "name": environment.machine,
        "system": environment.platform,
        "CPU": f"{environment.cpu_name}, {environment.num_cores} cores, "
        f"{environment.num_logical_cpus} logical CPUs",
        "memory": f"{environment.memory_bytes / 2**30:.1f} GiB",
        "GPU": ", ".join(gpu.name for gpu in environment.gpus) or "none",
        "driver": environment.driver or "none",
        "CUDA in torch": _torch_cuda(),
        "versions": ", ".join(f"{name} {v}" for name, v in environment.versions.items()),
        "greenlab commit": environment.commit or "none (installed package)",
        "MLflow store": _store(),
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _torch_cuda() -> str:
    import torch  # seconds to load, wanted for this one line

    if torch.cuda.is_available():
        return f"{torch.version.cuda}, usable"
    return f"{torch.version.cuda or 'not built in'}, not usable here: cells run on the CPU"


def _store() -> str:
    uri = tracking.default_uri()
    path = tracking.sqlite_path(uri)
    if path is not None and not path.exists():
        return f"{path}, created by the first run"
    try:
        tracking.check_reachable(Mlflow())
    except GreenlabError as error:
        return str(error)
    return str(path or tracking.without_password(uri))


if __name__ == "__main__":
    raise SystemExit(main())
