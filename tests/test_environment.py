"""The hardware that is named, against the hardware that is here."""

from dataclasses import replace

import pytest

from greenlab.config import Hardware
from greenlab.environment import check_hardware, describe_environment
from greenlab.errors import HardwareMismatchError
from greenlab.record import Environment


@pytest.fixture(scope="module")
def here() -> Environment:
    return replace(describe_environment(), cpu_name="12th Gen Intel(R) Core(TM) i5-12500")


@pytest.mark.parametrize(
    ("gpu", "matches"),
    [
        ("NVIDIA GeForce RTX 3080", True),
        ("NVIDIA GeForce RTX 3080 Ti", False),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", False),
        ("NVIDIA GeForce RTX 3090", False),
    ],
)
def test_a_variant_is_another_gpu(here: Environment, gpu: str, matches: bool) -> None:
    hardware = Hardware(gpu_name="RTX 3080", strict=False)
    assert (check_hardware(hardware, here, gpu_name=gpu) == []) is matches


@pytest.mark.parametrize(
    ("cpu", "matches"), [("i5-12500", True), ("i5-12500H", False), ("i5-1250", False)]
)
def test_a_variant_is_another_cpu(here: Environment, cpu: str, matches: bool) -> None:
    hardware = Hardware(cpu_name=cpu, strict=False)
    assert (check_hardware(hardware, here, gpu_name=None) == []) is matches


def test_a_mismatch_is_refused_with_both_ways_out(here: Environment) -> None:
    with pytest.raises(HardwareMismatchError, match=r"hardware=auto.*hardware\.strict=false"):
        check_hardware(Hardware(cpu_name="i9-11900KF"), here, gpu_name=None)


def test_a_cell_on_the_cpu_needs_no_gpu_of_that_name(here: Environment) -> None:
    assert check_hardware(Hardware(gpu_name="RTX 3080"), here, gpu_name=None) == []
