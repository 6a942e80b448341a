"""NVML in Python, under the real pynvml: GPUs whose readings the machine's writer keeps in memory.

A power limit that one process sets is in that memory too: all others see it, and the writer obeys.

The functions have NVML's own names and C signatures, and return NVML's codes. Whatever is not here
is a missing symbol, as with an old driver.
"""

# ruff: noqa: N802, N815 - these are NVML's names

import ctypes
import json
import mmap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
LIBRARY_NOT_FOUND = 12

ARCHITECTURE_AMPERE = 7
FIELDS_OF_BOARD_POWER = (185, 186)  # averaged over a second, instantaneous; the same here
SCOPE_GPU = 0
UNSIGNED_INT = 1
GRAPHICS_CLOCK, SM_CLOCK, MEMORY_CLOCK = 0, 1, 2
MEMORY_CLOCK_MHZ = 1215
FIRST_OTHER_PID = 1 << 22
"""Above what Linux numbers processes up to: never this process."""
FIRST_HANDLE = 0x1000
"""A handle is this plus the GPU's index; like a real one, it is not to be looked into."""


def install(pynvml: ModuleType, memory_path: str) -> None:
    """Let pynvml find the simulated library; with an empty path, no library at all."""
    if memory_path:
        library = SimulatedNvml(pynvml, Path(memory_path))
        pynvml.nvmlLib = library.symbols()  # type: ignore[attr-defined]
    else:

        def load_nothing() -> None:
            raise pynvml.NVMLError(LIBRARY_NOT_FOUND)

        pynvml._LoadNvmlLibrary = load_nothing  # type: ignore[attr-defined]


def _index(handle: Any) -> int:
    return (ctypes.cast(handle, ctypes.c_void_p).value or 0) - FIRST_HANDLE


def _point(handle: Any, index: int) -> None:
    ctypes.c_void_p.from_buffer(handle).value = FIRST_HANDLE + index


class SimulatedNvml:
    """The library: what it answers about each GPU.

    Methods named `nvml...` take the C arguments after the handle; `target._obj` is what a C pointer
    made by ctypes.byref() points to.
    """

    def __init__(self, pynvml: ModuleType, memory_path: Path) -> None:
        layout = json.loads(memory_path.with_suffix(".json").read_text())
        with memory_path.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._fields: list[str] = layout["fields"]
        self._gpus: list[dict[str, Any]] = layout["gpus"]
        self._messages: dict[int, str] = pynvml.NVMLError._errcode_to_string
        self._num_inits = 0

    def symbols(self) -> SimpleNamespace:
        """The library as pynvml sees it: plain functions, to which it may give attributes."""
        symbols = SimpleNamespace()
        for name in dir(self):
            if name.startswith("nvmlDeviceGetHandle"):
                setattr(symbols, name, self._about_the_system(name))
            elif name.startswith("nvmlDevice"):
                setattr(symbols, name, self._about_a_gpu(getattr(self, name)))
            elif name.startswith("nvml"):
                setattr(symbols, name, self._about_the_system(name))
        symbols.nvmlDeviceGetCount_v2 = self._about_the_system("device_count")
        return symbols

    def _about_the_system(self, name: str) -> Callable[..., Any]:
        method = getattr(self, name)
        always = name in ("nvmlInitWithFlags", "nvmlInit_v2", "nvmlErrorString")

        def symbol(*arguments: Any) -> Any:
            return method(*arguments) if always or self._num_inits else UNINITIALIZED

        return symbol

    def _about_a_gpu(self, method: Callable[..., int]) -> Callable[..., int]:
        def symbol(handle: Any, *arguments: Any) -> int:
            if not self._num_inits:
                return UNINITIALIZED
            index = _index(handle)
            if not 0 <= index < len(self._gpus):
                return INVALID_ARGUMENT
            return self._live(index, "nvml_error") or method(index, *arguments)

        return symbol

    def _live(self, index: int, field: str) -> int:
        return self._words[self._place(index, field)]

    def _place(self, index: int, field: str) -> int:
        return index * len(self._fields) + self._fields.index(field)

    def _put(self, index: int, field: str, target: Any) -> int:
        target._obj.value = self._live(index, field)
        return SUCCESS

    # ------------------------------------------------------------------ the system

    def nvmlInitWithFlags(self, flags: int) -> int:
        self._num_inits += 1
        return SUCCESS

    def nvmlInit_v2(self) -> int:
        return self.nvmlInitWithFlags(0)

    def nvmlShutdown(self) -> int:
        self._num_inits -= 1
        return SUCCESS

    def nvmlErrorString(self, code: int) -> bytes:
        return self._messages.get(code, "Unknown Error").encode()

    def nvmlSystemGetDriverVersion(self, text: Any, length: Any) -> int:
        text.value = b"570.00.00"
        return SUCCESS

    def nvmlSystemGetNVMLVersion(self, text: Any, length: Any) -> int:
        text.value = b"12.570.00.00"
        return SUCCESS

    def nvmlSystemGetCudaDriverVersion(self, version: Any) -> int:
        version._obj.value = 12080
        return SUCCESS

    nvmlSystemGetCudaDriverVersion_v2 = nvmlSystemGetCudaDriverVersion

    # ------------------------------------------------------------------ finding GPUs

    def device_count(self, count: Any) -> int:
        count._obj.value = len(self._gpus)
        return SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        if index.value >= len(self._gpus):
            return INVALID_ARGUMENT
        _point(handle._obj, index.value)
        return SUCCESS

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        uuids = [gpu["uuid"] for gpu in self._gpus]
        if uuid.value.decode() not in uuids:
            return NOT_FOUND
        _point(handle._obj, uuids.index(uuid.value.decode()))
        return SUCCESS

    def nvmlDeviceGetIndex(self, index: int, number: Any) -> int:
        number._obj.value = index
        return SUCCESS

    def nvmlDeviceGetName(self, index: int, text: Any, length: Any) -> int:
        text.value = self._gpus[index]["name"].encode()
        return SUCCESS

    def nvmlDeviceGetUUID(self, index: int, text: Any, length: Any) -> int:
        text.value = self._gpus[index]["uuid"].encode()
        return SUCCESS

    # ------------------------------------------------------------------ what a GPU is

    def nvmlDeviceGetArchitecture(self, index: int, architecture: Any) -> int:
        architecture._obj.value = ARCHITECTURE_AMPERE
        return SUCCESS

    def nvmlDeviceGetC2cModeInfoV(self, index: int, info: Any) -> int:
        return NOT_SUPPORTED

    def nvmlDeviceGetMigMode(self, index: int, current: Any, pending: Any) -> int:
        return NOT_SUPPORTED

    def nvmlDeviceGetPersistenceMode(self, index: int, mode: Any) -> int:
        mode._obj.value = 1
        return SUCCESS

    # ------------------------------------------------------------------ its power limit

    def nvmlDeviceGetPowerManagementLimit(self, index: int, limit: Any) -> int:
        return self._put(index, "power_limit_mw", limit)

    nvmlDeviceGetEnforcedPowerLimit = nvmlDeviceGetPowerManagementLimit

    def nvmlDeviceGetPowerManagementDefaultLimit(self, index: int, limit: Any) -> int:
        limit._obj.value = self._board_mw(index, "power_limit_w")
        return SUCCESS

    def nvmlDeviceGetPowerManagementLimitConstraints(self, index: int, low: Any, high: Any) -> int:
        low._obj.value = self._board_mw(index, "min_power_limit_w")
        high._obj.value = self._board_mw(index, "max_power_limit_w")
        return SUCCESS

    def nvmlDeviceSetPowerManagementLimit(self, index: int, limit: Any) -> int:
        if not self._gpus[index]["may_set_power_limit"]:
            return NO_PERMISSION
        low_mw = self._board_mw(index, "min_power_limit_w")
        high_mw = self._board_mw(index, "max_power_limit_w")
        if not low_mw <= limit.value <= high_mw:
            return INVALID_ARGUMENT
        self._words[self._place(index, "power_limit_mw")] = limit.value
        return SUCCESS

    def _board_mw(self, index: int, field: str) -> int:
        watts: float = self._gpus[index][field]
        return round(watts * 1000)

    # ------------------------------------------------------------------ what a GPU does

    def nvmlDeviceGetTotalEnergyConsumption(self, index: int, energy: Any) -> int:
        if not self._gpus[index]["has_energy_counter"]:
            return NOT_SUPPORTED
        return self._put(index, "energy_mj", energy)

    def nvmlDeviceGetPowerUsage(self, index: int, power: Any) -> int:
        return self._put(index, "power_mw", power)

    def nvmlDeviceGetFieldValues(self, index: int, count: Any, values: Any) -> int:
        for value in values._obj:
            if value.fieldId in FIELDS_OF_BOARD_POWER and value.scopeId == SCOPE_GPU:
                value.nvmlReturn = SUCCESS
                value.valueType = UNSIGNED_INT
                value.value.uiVal = self._live(index, "power_mw")
            else:
                value.nvmlReturn = NOT_SUPPORTED
        return SUCCESS

    def nvmlDeviceGetUtilizationRates(self, index: int, rates: Any) -> int:
        rates._obj.gpu = self._live(index, "utilisation_percent")
        rates._obj.memory = rates._obj.gpu // 2
        return SUCCESS

    def nvmlDeviceGetMemoryInfo(self, index: int, memory: Any) -> int:
        memory._obj.total = self._gpus[index]["memory_bytes"]
        memory._obj.used = self._live(index, "memory_used_bytes")
        memory._obj.free = memory._obj.total - memory._obj.used
        return SUCCESS

    nvmlDeviceGetMemoryInfo_v2 = nvmlDeviceGetMemoryInfo

    def nvmlDeviceGetTemperature(self, index: int, sensor: Any, temperature: Any) -> int:
        return self._put(index, "temperature_celsius", temperature)

    def nvmlDeviceGetTemperatureV(self, index: int, reading: Any) -> int:
        reading._obj.temperature = self._live(index, "temperature_celsius")
        return SUCCESS

    def nvmlDeviceGetClockInfo(self, index: int, kind: Any, clock: Any) -> int:
        if kind.value == MEMORY_CLOCK:
            clock._obj.value = MEMORY_CLOCK_MHZ
            return SUCCESS
        if kind.value in (GRAPHICS_CLOCK, SM_CLOCK):
            return self._put(index, "sm_clock_mhz", clock)
        return NOT_SUPPORTED

    def nvmlDeviceGetCurrentClocksEventReasons(self, index: int, reasons: Any) -> int:
        return self._put(index, "clock_event_reasons", reasons)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, index: int, count: Any, infos: Any) -> int:
        room, count._obj.value = count._obj.value, self._live(index, "num_other_processes")
        if room < count._obj.value:
            return INSUFFICIENT_SIZE
        for number in range(count._obj.value):
            infos[number].pid = FIRST_OTHER_PID + number
            infos[number].usedGpuMemory = 1 << 30
        return SUCCESS
