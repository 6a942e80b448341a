"""GPU power limits: set for one cell, and back to what was found when it ends or is killed.

The limit is the board's own (`nvidia-smi -pl`): its firmware lowers clocks so that the board's
power stays below it, which costs time and may save energy (the paper, Sec. 6). It belongs to the
board and not to a process, so `power_guardian.py` restores it even where this process is killed.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greenlab.config import Hardware
from greenlab.errors import PowerLimitError
from greenlab.record import Source

logger = logging.getLogger(__name__)

KEY = "hardware.power_limit_w"
GUARDIAN = Path(__file__).parent / "power_guardian.py"
RESTORE_WITHIN_S = 30.0
"""Longest wait for the guardian; a driver answers in milliseconds unless it hangs."""


def check_power_limit(hardware: Hardware, sources: Sequence[Source]) -> None:
    """Check that every GPU that is metered takes the limit, and that this user may set it.

    The right is tried by setting the limit that is there already, so nothing changes.

    Raises:
        PowerLimitError: no GPU is metered, the limit is out of a board's range, or it may not be
            set.
    """
    if hardware.power_limit_w is None:
        return
    for gpu in _metered_gpus(hardware.power_limit_w, sources):
        _check_range(gpu, hardware.power_limit_w)
        _check_right(gpu, hardware.power_limit_w)


@contextmanager
def limited_power(hardware: Hardware, sources: Sequence[Source]) -> Iterator[None]:
    """Hold `hardware.power_limit_w` on the GPUs that are metered while the block runs.

    Raises:
        PowerLimitError: it cannot be set. Where someone else changes it meanwhile, quality.py
            doubts the cell, and their limit stays.
    """
    if hardware.power_limit_w is None:
        yield
        return
    check_power_limit(hardware, sources)
    limit_mw = round(hardware.power_limit_w * 1000)  # NVML takes mW
    gpus = _metered_gpus(hardware.power_limit_w, sources)
    with _restored(gpus, limit_mw):
        for gpu in gpus:
            with _errors(gpu, hardware.power_limit_w):
                gpu.set_power_management_limit(limit_mw)
        _require(gpus, limit_mw)
        logger.info("power limit: %g W on %s", hardware.power_limit_w, _names(gpus))
        yield


def _metered_gpus(limit_w: float, sources: Sequence[Source]) -> list[Any]:
    from zeus.device.gpu.nvidia import NVIDIAGPU

    [source] = [source for source in sources if source.component == "gpu"]
    if not source.parts:
        raise PowerLimitError(
            f"{KEY} is {limit_w:g} and no GPU is metered ({source.reason}): there is nothing to "
            f"limit. Meter one (hardware.energy_sources.gpu=auto), or set {KEY}=null"
        )
    return [NVIDIAGPU(int(part.removeprefix("gpu"))) for part in source.parts]


def _check_range(gpu: Any, limit_w: float) -> None:
    with _errors(gpu, limit_w):
        low_mw, high_mw = gpu.get_power_management_limit_constraints()
    if not low_mw <= round(limit_w * 1000) <= high_mw:
        raise PowerLimitError(
            f"{KEY} is {limit_w:g}; GPU {gpu.gpu_index} ({gpu.get_name()}) takes "
            f"{low_mw / 1000:g} to {high_mw / 1000:g} W. Choose a limit within them, or {KEY}=null "
            "to leave it as it is"
        )


def _check_right(gpu: Any, limit_w: float) -> None:
    # Zeus skips what changes nothing, and with it the driver's check of who may.
    import pynvml

    from greenlab.meters.power_guardian import GpuHeldError, command_to_set, hold

    try:
        with hold(gpu.gpu_index) as handle:
            found_mw = pynvml.nvmlDeviceGetPowerManagementLimit(handle)
            pynvml.nvmlDeviceSetPowerManagementLimit(handle, found_mw)
    except GpuHeldError as error:
        raise PowerLimitError(f"{KEY} is {limit_w:g}: {error}, or set {KEY}=null") from error
    except pynvml.NVMLError as error:
        raise PowerLimitError(
            f"{KEY} is {limit_w:g}; the driver does not let this user set the limit of GPU "
            f"{gpu.gpu_index} ({gpu.get_name()}): {error}. It takes root (CAP_SYS_ADMIN). Run "
            "greenlab with that right; or have an administrator set one limit for the whole sweep "
            f"({command_to_set(gpu.gpu_index, round(limit_w * 1000))}) and leave {KEY}=null"
        ) from error


@contextmanager
def _restored(gpus: Sequence[Any], limit_mw: int) -> Iterator[None]:
    """Note the limits of `gpus`, and set them again after the block or after this process's end.

    `limit_mw` is what the block sets; another limit than that is somebody else's, and stays.
    """
    indices = [str(gpu.gpu_index) for gpu in gpus]
    guardian = subprocess.Popen(
        [sys.executable, "-P", str(GUARDIAN), str(os.getpid()), str(limit_mw), *indices],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a cell is stopped by killing its whole process group
    )
    assert guardian.stdin is not None
    assert guardian.stdout is not None
    found_mw: list[int] = []
    try:
        answer = guardian.stdout.readline().strip()
        if not answer.startswith("found "):
            raise PowerLimitError(
                f"{KEY}: no process could be started that puts the limit back after the cell "
                f"({answer or 'what it said is above'}); {KEY}=null leaves the limit as it is"
            )
        found_mw = [int(word) for word in answer.split()[1:]]
        yield
    finally:
        guardian.stdin.close()
        guardian.stdout.close()
        try:
            is_back = guardian.wait(RESTORE_WITHIN_S) == 0  # it has read the limits again
        except subprocess.TimeoutExpired:  # left alone: it may get through to the driver yet
            is_back = False
        if found_mw and not is_back:
            for gpu, one_mw in zip(gpus, found_mw, strict=True):
                _put_back(gpu, one_mw, limit_mw)


def _put_back(gpu: Any, limit_mw: int, set_mw: int) -> None:
    """Do what the guardian, killed or refused, has not done."""
    from zeus.exception import ZeusBaseError

    from greenlab.meters.power_guardian import command_to_set

    try:
        if gpu.get_power_management_limit() == set_mw:
            gpu.set_power_management_limit(limit_mw)
    except ZeusBaseError as error:
        logger.error(
            "the power limit of GPU %d could not be put back to %g W (%s); do it by hand: %s",
            gpu.gpu_index,
            limit_mw / 1000,
            error,
            command_to_set(gpu.gpu_index, limit_mw),
        )


def _require(gpus: Sequence[Any], limit_mw: int) -> None:
    for gpu in gpus:
        with _errors(gpu, limit_mw / 1000):
            in_force_mw = gpu.get_power_management_limit()
        if in_force_mw != limit_mw:
            raise PowerLimitError(
                f"{KEY} is {limit_mw / 1000:g}, and the limit of GPU {gpu.gpu_index} was "
                f"{in_force_mw / 1000:g} W right after it was set. Keep other tools from it "
                "(nvidia-smi -pl, DCGM, a vendor's daemon) and run the cell again"
            )


@contextmanager
def _errors(gpu: Any, limit_w: float) -> Iterator[None]:
    """Turn Zeus's errors into one of ours that names the GPU and the key."""
    from zeus.exception import ZeusBaseError

    try:
        yield
    except ZeusBaseError as error:
        raise PowerLimitError(
            f"{KEY} is {limit_w:g}; the power limit of GPU {gpu.gpu_index} can be neither read nor "
            f"set: {error}. {KEY}=null leaves it as it is"
        ) from error


def _names(gpus: Sequence[Any]) -> str:
    return ", ".join(f"GPU {gpu.gpu_index}" for gpu in gpus)
