"""Reading RAPL as somebody who is not root: refused, then let in by what the doctor prints."""

import importlib
import multiprocessing
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from greenlab import doctor
from greenlab.config import Hardware
from greenlab.environment import describe_environment
from greenlab.meters import choose_sources, rapl_access, zeus_counters
from greenlab.record import Source

IS_ROOT = os.geteuid() == 0
NOBODY = 65534
GROUP_ID = 54321 if IS_ROOT else os.getgid()
"""One that files can be given to here."""


@pytest.fixture
def sysfs() -> Iterator[Path]:
    """A powercap tree linked as in /sys, with `energy_uj` as kernels make it: 0400."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody else in
        sys = Path(folder) / "sys"
        zones = sys / "devices" / "virtual" / "powercap" / "intel-rapl"
        links = sys / "class" / "powercap"
        links.mkdir(parents=True)
        for place, name in (
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0/intel-rapl:0:0", "core"),
            ("intel-rapl:0/intel-rapl:0:1", "dram"),
        ):
            zone = zones / place
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}\n")
            (zone / "energy_uj").write_text("5000000\n")
            (zone / "energy_uj").chmod(0o400)
            (zone / "max_energy_range_uj").write_text("262143328850\n")
            (zone / "constraint_0_power_limit_uw").write_text("65000000\n")
            (links / zone.name).symlink_to(Path("../../devices/virtual/powercap/intel-rapl", place))
        (links / "intel-rapl").symlink_to("../../devices/virtual/powercap/intel-rapl")
        Path(folder).chmod(0o755)
        yield sys


def modes(sysfs: Path) -> dict[str, tuple[str, int]]:
    """Mode and group of every file and folder that is no link."""
    return {
        str(path.relative_to(sysfs)): (stat.filemode(path.stat().st_mode), path.stat().st_gid)
        for path in sysfs.rglob("*")
        if not path.is_symlink()
    }


def zones_of(sysfs: Path) -> set[str]:
    root = sysfs / "devices"
    return {str(path.relative_to(sysfs)) for path in root.rglob("energy_uj")}


# ------------------------------------------------------------------------------- as that somebody


def _look(root: Path, connection: Connection) -> None:
    os.environ[zeus_counters.POWERCAP_VARIABLE] = str(root)
    os.environ.pop("ZEUSD_SOCK_PATH", None)
    os.environ.pop("ZEUSD_HOST_PORT", None)
    # While they can still be read, wherever they are installed.
    for module in ("grp", "pwd", "zeus.device.cpu.rapl", "zeus.device.gpu.nvidia"):
        importlib.import_module(module)

    if IS_ROOT:
        os.setgroups([GROUP_ID])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    connection.send([opened.source for opened in choose_sources(Hardware(), uses_cuda=False)])


def look_unprivileged(sysfs: Path) -> dict[str, Source]:
    """What is found by a user who is not root, and a member of GROUP_ID; by component."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_look, args=(sysfs / "class/powercap/intel-rapl", theirs))
    process.start()
    theirs.close()
    sources = ours.recv()
    process.join()
    return {source.component: source for source in sources}


def test_rapl_is_modelled_without_the_right_and_measured_with_it(sysfs: Path) -> None:
    if not IS_ROOT:  # an owner may read what is 0400
        for path in zones_of(sysfs):
            (sysfs / path).chmod(0)
    refused = look_unprivileged(sysfs)
    assert refused["cpu"].provenance == "modelled:tdp"
    assert re.search(
        r"not readable for this user \(.*mode 0[04]00\).*greenlab\.doctor", refused["cpu"].reason
    )
    assert refused["dram"].provenance == "absent"
    assert doctor.exit_code(list(refused.values()), describe_environment()) == 3
    assert "newgrp" in "\n".join(doctor.remedies(list(refused.values())))

    for path in zones_of(sysfs):
        os.chown(sysfs / path, -1, GROUP_ID)
        (sysfs / path).chmod(0o440)
    found = look_unprivileged(sysfs)
    assert found["cpu"].provenance == found["dram"].provenance == "measured:rapl"
    assert found["cpu"].reason == found["dram"].reason == ""
    no_gpu = Source(component="gpu", provenance="absent", detail="", reason="", parts=[])
    sources = [no_gpu, found["cpu"], found["dram"]]
    machine = describe_environment()
    assert doctor.exit_code(sources, machine) == (3 if machine.gpus else 0)
    assert doctor.remedies(sources) == []


# ----------------------------------------------------------------------------- what doctor prints


def printed_commands(remedy: str) -> list[str]:
    return [line.strip() for line in remedy.splitlines() if line.startswith("  ")]


def run_here(command: str, sysfs: Path) -> None:
    """Run a command that is meant for /sys, root and the group on a tree of ours."""
    ours = command.replace("/sys", str(sysfs)).replace("sudo ", "")
    ours = ours.replace(f"chgrp {rapl_access.GROUP} ", f"chgrp {GROUP_ID} ")
    subprocess.run(["sh", "-euc", ours], check=True, capture_output=True, timeout=10)


def assert_only_the_counters_were_opened(before: dict[str, tuple[str, int]], sysfs: Path) -> None:
    changed = {path: to for path, to in modes(sysfs).items() if to != before[path]}
    assert changed == {path: ("-r--r-----", GROUP_ID) for path in zones_of(sysfs)}


def test_the_commands_until_the_next_boot_open_the_counters_to_the_group(sysfs: Path) -> None:
    before = modes(sysfs)
    commands = printed_commands(rapl_access.group_remedy(in_container=False))
    [change_group] = [one for one in commands if one.startswith("sudo chgrp")]
    [change_mode] = [one for one in commands if one.startswith("sudo chmod")]
    run_here(change_group, sysfs)
    run_here(change_mode, sysfs)
    assert_only_the_counters_were_opened(before, sysfs)


def test_the_rule_is_written_as_it_is(tmp_path: Path) -> None:
    commands = printed_commands(rapl_access.group_remedy(in_container=False))
    [write] = [one for one in commands if one.startswith("echo")]
    there = tmp_path / "70-greenlab-rapl.rules"
    ours = write.replace(rapl_access.UDEV_RULE_FILE, str(there)).replace("sudo ", "")
    subprocess.run(["sh", "-euc", ours], check=True, capture_output=True)
    assert there.read_text() == f"{rapl_access.UDEV_RULE}\n"


def parse_rule(rule: str) -> list[tuple[str, str, str]]:
    """Key, operator and value of each part of a rule, as `man udev` defines them."""
    parts = []
    for part in re.split(r",\s+", rule):
        match = re.fullmatch(r'([A-Z]+)(==|!=|\+=|=)"([^"]*)"', part)
        assert match is not None, part
        parts.append((match[1], match[2], match[3]))
    return parts


def test_the_rule_opens_the_counters_of_every_zone_to_the_group(sysfs: Path) -> None:
    before = modes(sysfs)
    rule = parse_rule(rapl_access.UDEV_RULE)
    matches = {key: value for key, operator, value in rule if operator == "=="}
    programs = [value for key, operator, value in rule if (key, operator) == ("RUN", "+=")]
    assert matches["SUBSYSTEM"] == "powercap"
    assert "add" in matches["ACTION"].split("|")
    assert set(matches) == {"SUBSYSTEM", "ACTION", "KERNEL"}
    assert len(matches) + len(programs) == len(rule)
    devices = [link for link in (sysfs / "class/powercap").iterdir()]
    zones = [device for device in devices if fnmatchcase(device.name, matches["KERNEL"])]
    assert {device.name for device in devices} - {zone.name for zone in zones} == {"intel-rapl"}
    for zone in zones:
        device_path = f"/{zone.resolve().relative_to(sysfs)}"  # what udev puts for %p
        for program in programs:
            assert Path(program.split()[0]).is_absolute()  # udev looks nowhere else
            run_here(program.replace("%p", device_path), sysfs)
    assert_only_the_counters_were_opened(before, sysfs)


@pytest.mark.skipif(shutil.which("udevadm") is None, reason="there is no udev here to ask")
def test_udev_takes_the_rule(tmp_path: Path) -> None:
    rules = tmp_path / "70-greenlab-rapl.rules"
    rules.write_text(f"{rapl_access.UDEV_RULE}\n")
    # systemd 254 and later can; an unknown group is no mistake of the rule.
    command = ["udevadm", "verify", "--resolve-names=never", str(rules)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if "Unknown command" in result.stderr or "unrecognized option" in result.stderr:
        pytest.skip("this udev cannot verify rules")
    assert result.returncode == 0, result.stderr


def test_nothing_printed_opens_rapl_to_everybody() -> None:
    remedies = "\n".join(
        [
            rapl_access.group_remedy(in_container=True),
            rapl_access.container_remedy(),
            rapl_access.zeusd_remedy(),
        ]
    )
    for way in ("a+r", "o+r", "+r ", "chmod 4", "chmod 6", "666", "--privileged"):
        assert way not in remedies.replace("g+r ", "")


def test_the_mount_shows_the_zones_where_they_are_looked_for(sysfs: Path) -> None:
    for command in printed_commands(rapl_access.container_remedy()):
        match = re.search(r"-v (/sys\S+):(\S+):ro", command)
        assert match is not None
        folder = sysfs / match[1].removeprefix("/sys/")
        assert folder.resolve() == folder  # no link, which a mount might leave behind
        assert (folder / "intel-rapl:0" / "name").exists()
        assert Path(match[2]) in zeus_counters.POWERCAP_ROOTS


# ------------------------------------------------------------------------------ why there is none

X86 = "Linux x86_64"
METAL, VIRTUAL = "flags\t\t: fpu vme\n", "flags\t\t: fpu vme hypervisor lahf_lm\n"


def unmetered(reason: str) -> list[Source]:
    return [
        Source(component="cpu", provenance="modelled:tdp", detail="", reason=reason, parts=["cpu"]),
        Source(component="dram", provenance="absent", detail="", reason=reason, parts=[]),
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "system", "told"),
    [
        (VIRTUAL, X86, "only whoever owns its hypervisor"),
        (METAL, X86, "sudo modprobe intel_rapl_msr"),
        ("Processor: 0\n", "Linux aarch64", "this is Linux aarch64"),
        (METAL, "Darwin arm64", "this is Darwin arm64"),
    ],
)
def test_a_machine_without_rapl_gets_no_commands_that_cannot_help(
    tmp_path: Path, cpuinfo: str, system: str, told: str
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    reason = rapl_access.why_no_rapl(tmp_path / "none", tmp_path / "cpuinfo", system)
    assert told in reason
    assert doctor.remedies(unmetered(reason)) == []


def test_a_container_that_hides_rapl_is_told_what_to_mount(sysfs: Path) -> None:
    # Docker covers /sys/devices/virtual/powercap with an empty folder: the link leads nowhere.
    shutil.rmtree(sysfs / "devices/virtual/powercap/intel-rapl")
    reason = rapl_access.why_no_rapl(sysfs / "class/powercap/intel-rapl", system=X86)
    assert rapl_access.HIDDEN in reason
    text = "\n".join(doctor.remedies(unmetered(reason)))
    assert "docker run" in text
    assert "on the host and not in this container" in text


@pytest.mark.parametrize(
    ("mark", "environment", "is_container"),
    [
        (".dockerenv", {}, True),
        ("run/.containerenv", {}, True),
        ("", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ("", {}, False),
    ],
)
def test_containers_are_told_from_machines(
    tmp_path: Path, mark: str, environment: dict[str, str], is_container: bool
) -> None:
    if mark:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert rapl_access.is_container(tmp_path, environment) == is_container
