"""The process that puts GPUs' power limits back, also where the one that changed them is killed.

    python -P power_guardian.py PID LIMIT_MW INDEX...

`power_limit.py` starts it before it sets a limit, in a session of its own, so that what kills a
cell's processes spares it. It notes the limits that it finds, prints `found` and those limits in
milliwatts, and sleeps until its standard input or the process PID ends; then it sets them again. A
limit outlives the process that set it, and a limit left behind would falsify every later joule. It
puts LIMIT_MW back only: another limit is somebody else's by then. What kills everything at once, a
container's end or a power cut, ends it too.
Standard library and pynvml alone, all of it imported before the first limit is changed.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pynvml

HOLD_WITHIN_S = 30.0
"""How long a limit may be in other hands; a guardian whose process was killed needs far less."""


class GpuHeldError(Exception):
    """Another process is changing the power limit of a GPU."""


@contextlib.contextmanager
def hold(index: int) -> Iterator[Any]:
    """Keep other greenlabs from a GPU's power limit meanwhile; gives the GPU's NVML handle.

    Without it a cell that starts before the limit of a killed one is back would take that limit
    for the one it found. Linux frees the name that is bound here as soon as its holder is gone.

    Raises:
        GpuHeldError: it is in other hands for longer than `HOLD_WITHIN_S`.
    """
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    give_up_s = time.monotonic() + HOLD_WITHIN_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        while True:
            try:
                name.bind(f"\0greenlab power limit {pynvml.nvmlDeviceGetUUID(handle)}")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > give_up_s:
                    raise GpuHeldError(
                        f"another greenlab limits the power of GPU {index}; run one at a time on a "
                        "GPU, or wait for the other to end"
                    ) from error
                time.sleep(0.05)
        yield handle


def command_to_set(index: int, limit_mw: int) -> str:
    """What an administrator types to set a limit by hand."""
    return f"sudo nvidia-smi -i {index} -pl {limit_mw / 1000:g}"


def guard(pid: int, limit_mw: int, indices: Sequence[int]) -> bool:
    """Wait for the end of `pid`, or of standard input; returns whether every limit is back.

    GPUs are held in order, so that two guardians never wait for each other.
    """
    pynvml.nvmlInit()
    with contextlib.ExitStack() as held:
        gpus = {index: held.enter_context(hold(index)) for index in sorted(indices)}
        found_mw = {
            index: int(pynvml.nvmlDeviceGetPowerManagementLimit(gpus[index])) for index in indices
        }
        for index in indices:  # a right that its parent has and it has not would strand the limit
            pynvml.nvmlDeviceSetPowerManagementLimit(gpus[index], found_mw[index])
        print("found", *found_mw.values(), flush=True)
        _wait_for_the_end(pid)
        is_back = [_put_back(index, gpus[index], found_mw[index], limit_mw) for index in indices]
        return all(is_back)


def _wait_for_the_end(pid: int) -> None:
    """Sleep until standard input is closed or `pid` is gone.

    Both: a process that a model has forked may keep the pipe open, and a kernel before Linux 5.3
    cannot wait for a process that is no child.
    """
    ends = select.poll()
    ends.register(sys.stdin, select.POLLIN | select.POLLHUP)
    with contextlib.suppress(OSError):
        ends.register(os.pidfd_open(pid), select.POLLIN)
    if os.getppid() == pid:  # else it is gone, and its number may be another's
        ends.poll()


def _put_back(index: int, gpu: Any, limit_mw: int, set_mw: int) -> bool:
    try:
        if pynvml.nvmlDeviceGetPowerManagementLimit(gpu) != set_mw:
            return True  # never set, or somebody else's by now
        pynvml.nvmlDeviceSetPowerManagementLimit(gpu, limit_mw)
        now_mw = pynvml.nvmlDeviceGetPowerManagementLimit(gpu)
        problem = "" if now_mw == limit_mw else f"it is {now_mw / 1000:g} W still"
    except pynvml.NVMLError as error:
        problem = str(error)
    if problem:  # the process that could log it may be gone
        print(
            f"the power limit of GPU {index} could not be put back ({problem}); do it by hand: "
            + command_to_set(index, limit_mw),
            file=sys.stderr,
        )
    return not problem


def main() -> None:
    """Guard the GPUs named on the command line."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what ends the others is what it waits for
    try:
        pid, limit_mw, *indices = map(int, sys.argv[1:])
        is_back = guard(pid, limit_mw, indices)
    except (GpuHeldError, pynvml.NVMLError) as error:
        print(error, flush=True)
        is_back = False
    sys.exit(0 if is_back else 1)


if __name__ == "__main__":
    main()
