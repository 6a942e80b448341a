"""Facts about the machine and the software, and whether this is the hardware that was named."""

import contextlib
import hashlib
import os
import platform
import re
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from greenlab.config import Hardware
from greenlab.errors import HardwareMismatchError
from greenlab.record import SIMULATED, Conditions, Environment, Gpu

PACKAGES = [
    "greenlab",
    "torch",
    "torchvision",
    "zeus",
    "nvidia-ml-py",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "psutil",
    "thop",
    "numpy",
]


def describe_environment() -> Environment:
    """Look at the machine; nothing here needs root."""
    gpus, driver = _gpus()
    cpu_name = _cpu_name()
    return Environment(
        machine=_machine_name(cpu_name, gpus),
        hostname=socket.gethostname(),
        platform=platform.platform(),
        cpu_name=cpu_name,
        num_cores=psutil.cpu_count(logical=False) or 0,
        num_logical_cpus=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus,
        driver=driver,
        versions={"python": platform.python_version()} | _versions(),
        commit=_commit(Path(__file__).parent.parent),
        is_virtual=_is_virtual(),
        governor=_governor(),
        has_turbo=_has_turbo(),
    )


def read_conditions() -> Conditions:
    """The state of the machine now."""
    monotonic_s = time.monotonic()
    swap = psutil.swap_memory()
    return Conditions(
        unix_offset_s=time.time() - monotonic_s,
        suspended_s=time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic_s,
        swapped_bytes=swap.sin + swap.sout,
        load_average=os.getloadavg()[0],
    )


def check_hardware(
    hardware: Hardware, environment: Environment, *, gpu_name: str | None
) -> list[str]:
    """Compare the names that the configuration expects with what is here.

    `gpu_name` is that of the GPU that the workload runs on, None where it runs on the CPU.

    Returns:
        What does not match, empty as a rule.

    Raises:
        HardwareMismatchError: something does not match and `hardware.strict` is set.
    """
    found = {"cpu_name": environment.cpu_name}
    if gpu_name is not None:
        found["gpu_name"] = gpu_name
    mismatches = [
        f"hardware.{key} is '{expected}', this machine has '{name}'"
        for key, name in found.items()
        if (expected := getattr(hardware, key)) and not _is_named(name, expected)
    ]
    if mismatches and hardware.strict:
        raise HardwareMismatchError(
            "; ".join(mismatches) + ". Run it on that machine, choose hardware=auto, or set "
            "hardware.strict=false to go on and have the mismatch recorded as a doubt"
        )
    return mismatches


def _is_named(name: str, expected: str) -> bool:
    """Whether `expected` stands in `name` as it is: an RTX 3080 Ti is no RTX 3080."""
    variants = r"(?! ?(Ti|SUPER|Laptop|Max-Q|Mobile)\b)"
    return re.search(rf"(?<!\w){re.escape(expected)}(?!\w){variants}", name, re.I) is not None


def _machine_name(cpu_name: str, gpus: list[Gpu]) -> str:
    machine_id = Path("/etc/machine-id")
    facts = [
        machine_id.read_text().strip() if machine_id.exists() else "",
        cpu_name,
        str(psutil.cpu_count()),
        *(gpu.uuid for gpu in gpus),
    ]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    name = f"{socket.gethostname()}-{digest[:6]}"
    return SIMULATED + name if "SIMULATED_BEACON" in os.environ else name


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _is_virtual() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return (
        cpuinfo.exists()
        and re.search(r"^flags.*\bhypervisor\b", cpuinfo.read_text(), re.M) is not None
    )


CPUFREQ = Path("/sys/devices/system/cpu")


def _governor(root: Path = CPUFREQ) -> str:
    """Of all CPUs, where they differ with a comma between."""
    files = root.glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ",".join(sorted({file.read_text().strip() for file in files}))


def _has_turbo(root: Path = CPUFREQ) -> bool | None:
    for name, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        if (root / name).exists():
            return (root / name).read_text().strip() == on
    return None


def _gpus() -> tuple[list[Gpu], str]:
    # Zeus's check knows the look-alike packages that would break NVML later.
    from zeus.device.gpu.nvidia import nvml_is_available

    if not nvml_is_available():
        return [], ""
    import pynvml

    gpus = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        with contextlib.suppress(pynvml.NVMLError):  # a GPU that is lost, or another user's
            gpus.append(_gpu(pynvml, index))
    return gpus, str(pynvml.nvmlSystemGetDriverVersion())


def _gpu(pynvml: Any, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    power_limit_w = memory_bytes = None  # laptops, virtual and unified-memory GPUs may not tell
    with contextlib.suppress(pynvml.NVMLError):
        power_limit_w = pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000  # NVML gives mW
    with contextlib.suppress(pynvml.NVMLError):
        memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        memory_bytes=memory_bytes,
        power_limit_w=power_limit_w,
    )


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a checkout that runs without being installed
    return versions


def _commit(checkout: Path) -> str:
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=12", "--dirty=+"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        described = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=10, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git here: the version of the package still names the code
    return described.stdout.strip()
