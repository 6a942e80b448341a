"""A private /sys/class/powercap, for meters that can't be pointed elsewhere.

In a user and mount namespace of its own (`unshare -rm`, root not needed) a process may lay an
empty folder over /sys/class; every other class is bound back into it. Nothing shows outside.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLASSES = Path("/sys/class")
POWERCAP = CLASSES / "powercap"
REAL_ZONES = Path("/sys/devices/virtual/powercap")
"""Where the links in a real /sys/class/powercap lead; CodeCarbon looks here as well."""

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def refusal() -> str:
    """Why this system does not let a process have such a folder; empty where it does."""
    trial = [*UNSHARE, sys.executable, "-c", "from benchmarks import powercap; powercap.cover()"]
    try:
        done = subprocess.run(trial, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no unshare command (util-linux)"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"no private mount namespace: {lines[-1]}"


def cover() -> None:
    """Cover /sys/class with a copy of itself whose powercap is empty, inside the namespace."""
    names = sorted(path.name for path in CLASSES.iterdir())
    beneath = os.open(CLASSES, os.O_RDONLY | os.O_DIRECTORY)  # still leads there once it is covered
    try:
        _mount("-t", "tmpfs", "tmpfs", str(CLASSES))
        for name in names:
            if name != POWERCAP.name:
                (CLASSES / name).mkdir()
                _mount("--rbind", f"/proc/{os.getpid()}/fd/{beneath}/{name}", str(CLASSES / name))
    finally:
        os.close(beneath)
    if REAL_ZONES.is_dir():
        _mount("-t", "tmpfs", "tmpfs", str(REAL_ZONES))
    POWERCAP.mkdir()


def show(root: Path) -> None:
    """Let /sys/class/powercap show the zones under `root`, as the kernel would.

    The kernel has a folder per control type with the zones nested in it, and beside it one flat
    link for each of its zones and subzones.
    """
    for old in POWERCAP.iterdir():
        if old.is_symlink():
            old.unlink()
    control_type = POWERCAP / "intel-rapl"
    control_type.mkdir(exist_ok=True)
    for old in control_type.iterdir():
        old.unlink()
    (control_type / "subsystem").symlink_to(POWERCAP)
    for zone in root.glob("intel-rapl:*"):
        (control_type / zone.name).symlink_to(zone)
    for zone in root.rglob("intel-rapl:*"):
        (POWERCAP / zone.name).symlink_to(zone)


def _mount(*arguments: str) -> None:
    # Otherwise mount would follow the way beneath to a name, which leads to what covers it.
    done = subprocess.run(
        ["mount", "--no-canonicalize", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip() or f"mount {' '.join(arguments)} failed")
