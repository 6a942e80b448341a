"""The first step of a cell: is the hardware that the configuration names the hardware here?"""

from dataclasses import dataclass

import torch

from greenlab.config import Config
from greenlab.environment import check_hardware, describe_environment
from greenlab.execution import check_execution
from greenlab.record import Environment
from greenlab.workload import choose_device


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a cell runs, once it is known that it can."""

    device: torch.device
    environment: Environment
    mismatches: list[str]

    @property
    def uses_cuda(self) -> bool:
        """Whether the workload runs on a GPU."""
        return self.device.type == "cuda"


def preflight(config: Config) -> Place:
    """Check that the hardware named is the hardware here, and can do what is asked of it.

    Raises:
        HardwareMismatchError: it is not, or cannot.
    """
    environment = describe_environment()
    check_hardware(config.hardware, environment, gpu_name=None)  # another machine altogether?
    device = choose_device(config.hardware.device)
    check_execution(config, device)
    gpu_name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    mismatches = check_hardware(config.hardware, environment, gpu_name=gpu_name)
    return Place(device=device, environment=environment, mismatches=mismatches)
