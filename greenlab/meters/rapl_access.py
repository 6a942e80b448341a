"""Who may read RAPL, how one group gets the right to, and why there may be nothing to read.

Since Linux 5.10 `energy_uj` is for root alone: whoever reads it fine enough can infer what other
people's programs compute (PLATYPUS, CVE-2020-8694). So the right goes to one group and never to
everybody, and nothing of greenlab runs as root.
"""

import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path

POWERCAP_ROOT = Path("/sys/class/powercap/intel-rapl")
"""AMD's zones appear under the same name."""
CONTAINER_POWERCAP_ROOT = Path("/zeus_sys/class/powercap/intel-rapl")
"""Where Zeus looks in containers, which cover the folder itself with an empty one."""

NOT_READABLE = "is not readable for this user"
HIDDEN = "this container hides it"
"""What the reasons below say, for `greenlab.doctor` to know them by."""

GROUP = "energy"
JOIN_GROUP = (
    f'sudo groupadd --force --system {GROUP} && sudo usermod --append --groups {GROUP} "$(id -un)"'
)
UDEV_RULE_FILE = "/etc/udev/rules.d/70-greenlab-rapl.rules"
UDEV_RULE = (
    'SUBSYSTEM=="powercap", KERNEL=="intel-rapl:*", ACTION=="add|change", '
    f'RUN+="/bin/chgrp {GROUP} /sys%p/energy_uj", RUN+="/bin/chmod g+r /sys%p/energy_uj"'
)
"""One line; udev runs it for each zone at every boot, and puts the zone's path for %p."""
INSTALL_UDEV_RULE = (
    f"echo '{UDEV_RULE}' | sudo tee {UDEV_RULE_FILE}",
    "sudo udevadm control --reload",
    "sudo udevadm trigger --settle --action=add --subsystem-match=powercap",
)
UNTIL_NEXT_BOOT = (
    f"sudo chgrp {GROUP} /sys/class/powercap/intel-rapl:*/energy_uj",
    "sudo chmod g+r /sys/class/powercap/intel-rapl:*/energy_uj",
)
"""/sys/class/powercap links to every zone, subzones too."""

# The folder itself, not the link to it in /sys/class: nothing in it has to be resolved elsewhere.
MOUNT = f"-v /sys/devices/virtual/powercap/intel-rapl:{CONTAINER_POWERCAP_ROOT}:ro"
GROUP_ID = f'"$(getent group {GROUP} | cut -d: -f3)"'
"""A number: the container's own list of groups does not know the name."""
SERVE_ZEUSD = (
    "sudo install -d -m 0755 /run/zeusd",
    'sudo "$(command -v zeusd)" serve --enable cpu-read --socket-path /run/zeusd/zeusd.sock '
    f"--socket-permissions 660 --socket-gid {GROUP_ID}",
)
USE_ZEUSD = "export ZEUSD_SOCK_PATH=/run/zeusd/zeusd.sock"


def who_may_read(path: Path) -> str:
    """The owner, group and mode of a file, such as `root:root, mode 0400`."""
    try:
        owner, group = path.owner(), path.group()
    except KeyError:  # a container's lists do not know the host's names
        owner, group = str(path.stat().st_uid), str(path.stat().st_gid)
    return f"{owner}:{group}, mode {stat.S_IMODE(path.stat().st_mode):04o}"


def why_no_rapl(
    root: Path = POWERCAP_ROOT, cpuinfo: Path = Path("/proc/cpuinfo"), system: str = ""
) -> str:
    """Why a machine shows no RAPL zones under `root`, and who can do something about it.

    `system` is the operating system and the processor, `Linux x86_64`; this one's if empty.
    """
    system = system or f"{platform.system()} {platform.machine()}"
    if system not in ("Linux x86_64", "Linux i686"):
        return f"RAPL is read on Linux with an x86 processor, and this is {system}"
    if root.is_symlink() and not root.exists():
        return f"the machine has it, but {HIDDEN} (python -m greenlab.doctor prints what to mount)"
    if _is_virtual(cpuinfo):
        return (
            "this is a virtual machine, and only whoever owns its hypervisor can pass energy "
            "counters through to it"
        )
    return f"{root} is not there or empty; load its driver: sudo modprobe intel_rapl_msr"


def _is_virtual(cpuinfo: Path) -> bool:
    if not cpuinfo.exists():
        return False
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
    return bool(flags) and "hypervisor" in flags[0].split()


def is_container(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether commands typed here are typed in a container, and not on the machine itself."""
    # Left by Docker; by Podman; by Kubernetes; by systemd-nspawn and LXC.
    return (
        (root / ".dockerenv").exists()
        or (root / "run" / ".containerenv").exists()
        or "KUBERNETES_SERVICE_HOST" in environment
        or "container" in environment
    )


def group_remedy(*, in_container: bool) -> str:
    """How one group gets the right to read RAPL, for good or until the next boot."""
    where = ", on the host and not in this container" if in_container else ""
    return _paragraph(
        f"To read RAPL without being root, let one group read it{where}. Never everybody: whoever "
        "reads RAPL can infer what other people's programs compute (PLATYPUS, CVE-2020-8694), so "
        "let in only whom you trust with that. Join the group:",
        [JOIN_GROUP],
        f"For good: one line in {UDEV_RULE_FILE}, loaded now and at every boot:",
        INSTALL_UDEV_RULE,
        "Or only until the next boot:",
        UNTIL_NEXT_BOOT,
        f"You are in the group from the next login on; in one shell at once: newgrp {GROUP}",
    )


def container_remedy() -> str:
    """What a container needs in order to see RAPL, and to read it without being root."""
    return _paragraph(
        "A container sees RAPL only where it is mounted, and its user needs the group, by its "
        "number. Docker:",
        [f'docker run --user "$(id -u):$(id -g)" --group-add {GROUP_ID} {MOUNT} …'],
        "Podman without root, where you are in the group:",
        [f"podman run --group-add keep-groups {MOUNT} …"],
        f"Kubernetes: the same folder as a hostPath volume at {CONTAINER_POWERCAP_ROOT}, readOnly, "
        "and the group's number in securityContext.supplementalGroups. Where zeusd is to read, "
        "mount /run/zeusd too.",
    )


def zeusd_remedy() -> str:
    """How Zeus's daemon, which does run as root, reads for a group."""
    return _paragraph(
        "Or let Zeus's daemon read for the group (zeusd, a program of its own: "
        "https://ml.energy/zeus/zeusd/). By default everybody may ask it, hence the 660:",
        SERVE_ZEUSD,
        "and tell greenlab, which then asks it for what it cannot read itself:",
        [USE_ZEUSD],
    )


def _paragraph(*lines_and_commands: str | tuple[str, ...] | list[str]) -> str:
    """Lines of text, with commands indented and each on a line of its own, to be copied."""
    lines: list[str] = []
    for part in lines_and_commands:
        lines += [part] if isinstance(part, str) else [f"  {command}" for command in part]
    return "\n".join(lines)
