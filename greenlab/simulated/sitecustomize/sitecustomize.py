"""Puts a process on the simulated machine: Python runs this at start-up, through PYTHONPATH.

It gives the real pynvml a library of simulated GPUs the moment that something imports it, and
refuses to open the RAPL files that the machine declares unreadable (file modes do not stop root).
"""

import builtins
import errno
import importlib
import importlib.util
import io
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

WALL_CLOCK_WORD = 3
"""In writer.py's BEACON_FIELDS."""


class _SimulatedNvmlLoader(Loader):
    """Loads the real pynvml, then puts the simulated library under it."""

    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        simulated_nvml = importlib.import_module("simulated_nvml")  # beside this file
        simulated_nvml.install(module, os.environ["SIMULATED_NVML"])


class _PynvmlFinder(MetaPathFinder):
    """Waits for pynvml, so that a process without it pays nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pynvml":
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _SimulatedNvmlLoader(spec.loader)
        return spec


def _refuse_to_open(unreadable: frozenset[Path]) -> None:
    def refuses(file: object) -> bool:
        return isinstance(file, str | os.PathLike) and Path(file).absolute() in unreadable

    def guarded(real_open: Callable[..., Any]) -> Callable[..., Any]:
        def guarded_open(file: Any, *args: Any, **kwargs: Any) -> Any:
            if refuses(file):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real_open(file, *args, **kwargs)

        return guarded_open

    real_access = os.access

    def guarded_access(path: Any, mode: int, **kwargs: Any) -> bool:
        return not refuses(path) and real_access(path, mode, **kwargs)

    builtins.open = guarded(builtins.open)
    io.open = builtins.open  # pathlib's
    os.open = guarded(os.open)
    os.access = guarded_access


def _follow_wall_clock(beacon: Path) -> None:
    """Let time.time() be wrong by what the machine says; its writer and its truth stay right."""
    with beacon.open("r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
    real_time = time.time
    time.time = lambda: real_time() + words[WALL_CLOCK_WORD]


def _run_the_one_in_our_place() -> None:
    """Run the sitecustomize that this one hides, where the interpreter has one."""
    here = Path(__file__).parent.resolve()
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None and spec.origin is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if "SIMULATED_NVML" in os.environ:
    sys.meta_path.insert(0, _PynvmlFinder())
if os.environ.get("SIMULATED_BEACON"):
    _follow_wall_clock(Path(os.environ["SIMULATED_BEACON"]))
if os.environ.get("SIMULATED_UNREADABLE"):
    _refuse_to_open(frozenset(map(Path, os.environ["SIMULATED_UNREADABLE"].split("\n"))))
_run_the_one_in_our_place()
