"""greenlab runs grids of machine-learning experiments and measures the energy of every cell."""

import os

from greenlab import config, options

__all__ = ["config", "options"]

# Both number devices by PCI bus, so that the GPU that NVML meters is the GPU that CUDA uses.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
