"""Says what can be measured on this machine, and how to get the rest: `python -m greenlab.doctor`.

Exits with 0 when every component that `hardware=auto` asks for is measured or not there, with 3
when one is only modelled, or there and not readable.
"""

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from greenlab.config import Hardware, Lock, Mlflow
from greenlab.errors import GreenlabError, without_password
from greenlab.terminal import open_console

if TYPE_CHECKING:  # as meters, tracking and so on: what --help does without
    from greenlab.record import Environment, Source

ONLY_MODELLED = 3


def main() -> int:
    """Print the tables; see the module for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m greenlab.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the same for programs to read")
    wants_json = parser.parse_args().json
    from greenlab.environment import describe_environment
    from greenlab.meters import choose_sources
    from greenlab.meters.rapl_access import is_container

    environment = describe_environment()
    # A cell on CUDA meters the one GPU it uses; here every visible one is looked at.
    sources = [opened.source for opened in choose_sources(Hardware(), uses_cuda=False)]
    advice = remedies(sources, in_container=is_container())
    code = exit_code(sources, environment)
    if wants_json:
        found = {
            "components": [asdict(source) for source in sources],
            "remedies": advice,
            "environment": asdict(environment),
            "lock": _lock(),
            "exit_code": code,
        }
        print(json.dumps(found, indent=2))
        return code
    console = open_console()
    console.print(_components(sources))
    for remedy in advice:
        console.print(f"\n{remedy}", markup=False, emoji=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(_machine(environment))
    return code


def exit_code(sources: "list[Source]", environment: "Environment") -> int:
    """3 where a component is only modelled, or there and not readable; else 0."""
    from greenlab.meters.rapl_access import NOT_READABLE

    lacking = any(
        source.provenance.startswith("modelled")
        or NOT_READABLE in source.reason
        or (source.component == "gpu" and source.provenance == "absent" and environment.gpus)
        for source in sources
    )
    return ONLY_MODELLED if lacking else 0


def remedies(sources: "list[Source]", *, in_container: bool = False) -> list[str]:
    """What the user can do for each component that is not measured."""
    from greenlab.meters import rapl_access as rapl

    found = []
    reasons = " ".join(source.reason for source in sources)
    if rapl.NOT_READABLE in reasons or rapl.HIDDEN in reasons:
        in_container |= rapl.HIDDEN in reasons or str(rapl.CONTAINER_POWERCAP_ROOT) in reasons
        found.append(rapl.group_remedy(in_container=in_container))
        found += [rapl.container_remedy()] if in_container else []
        found.append(rapl.zeusd_remedy())
    cpu = next(source for source in sources if source.component == "cpu")
    if cpu.provenance == "modelled:tdp" and "assumed" in cpu.detail:
        found.append(
            "The TDP is assumed from the number of cores. Give the CPU's own (its data sheet has "
            "it), all sockets together: hardware.tdp_w.cpu=65. On a virtual machine give the part "
            "of them that it has as well, its cores over theirs: "
            "hardware.socket_share_fraction=0.125"
        )
    found += [
        f"{source.component} energy will be MODELLED here and marked with ~: right to "
        f"{source.error_fraction:.0%} of its gross joules. Do not publish it as measured."
        for source in sources
        if source.error_fraction is not None
    ]
    return found


def _components(sources: "list[Source]") -> Table:
    table = Table(title="What meters this machine (hardware=auto)", title_justify="left")
    for column in ("component", "provenance", "read from", "why nothing better"):
        table.add_column(column, overflow="fold")
    for source in sources:
        colour = {"measured": "green", "modelled": "yellow"}.get(
            source.provenance.partition(":")[0], "dim"
        )
        provenance = f"[{colour}]{source.provenance}[/]"
        detail, reason = (escape(text) or "–" for text in (source.detail, source.reason))
        table.add_row(source.component, provenance, detail, reason)
    return table


def _machine(environment: "Environment") -> Table:
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
        "machine's lock": "{file}: {state}".format(**_lock()),
    }
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table


def _torch_cuda() -> str:
    import torch  # seconds to load, wanted for this one line

    if torch.cuda.is_available():
        return f"{torch.version.cuda}, usable"
    return f"{torch.version.cuda or 'not built in'}, not usable here: cells run on the CPU"


def _lock() -> dict[str, str]:
    from greenlab import machine_lock

    lock = Lock(folder=os.environ.get(machine_lock.FOLDER_VARIABLE))
    try:
        file = machine_lock.lock_folder(lock) / machine_lock.MACHINE_FILE
        holder = machine_lock.find_holder(lock)
    except GreenlabError as error:
        return {"file": "none", "state": str(error)}
    return {"file": str(file), "state": f"taken by {holder}" if holder else "free"}


def _store() -> str:
    from greenlab import tracking

    uri = tracking.default_uri()
    path = tracking.sqlite_path(uri)
    if path is not None and not path.exists():
        return f"{path}, created by the first run"
    try:
        tracking.check_reachable(Mlflow())
    except GreenlabError as error:
        return str(error)
    return str(path or without_password(uri))


if __name__ == "__main__":
    raise SystemExit(main())
