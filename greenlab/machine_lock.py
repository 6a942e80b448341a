"""One measurement at a time on a machine: who measures holds a lock that all its users share.

There are two. The process that launches a run holds the machine's lock, from before its checks. The
process that measures a cell holds another one for all its life: where a launcher is killed and the
next one begins at once, or several launch on one machine, no two cells overlap. The kernel lets go
of a lock when its process dies, however it dies; who holds one is read from the kernel as well, so
nothing is written to the files and nothing in them can be out of date.
"""

import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from greenlab.config import Lock
from greenlab.errors import LockUnavailableError, MachineBusyError, without_password

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "GREENLAB_LOCK_FOLDER"
"""What conf/config.yaml takes lock.folder from."""
MACHINE_FILE = "greenlab-machine.lock"
MEASURING_FILE = "greenlab-measuring.lock"
SHARED_FOLDERS = (Path("/run/lock"), Path("/tmp"))
PROC_LOCKS = Path("/proc/locks")
POLL_PERIOD_S = 0.2
NOTICE_PERIOD_S = 180.0
GRACE_S = 2.0
"""How long a lock must be taken before anyone is refused: what a killed launcher leaves behind ends
within it, and so does a look at whether the lock is free."""
MAX_COMMAND_CHARACTERS = 200
_UNSEEN = (
    "another greenlab, which cannot be seen from here (a container's, or hidden from this user)"
)


@contextmanager
def machine_lock(lock: Lock, *, notice_period_s: float = NOTICE_PERIOD_S) -> Iterator[None]:
    """Be the one greenlab that launches measurements on this machine; starts when nobody measures.

    Waits for another one and says for whom, again every `notice_period_s`.

    Raises:
        MachineBusyError: another one has the machine, and lock.wait is false.
        LockUnavailableError: the lock cannot be taken in the folder for it.
    """
    folder = lock_folder(lock)
    with _held(folder / MACHINE_FILE, lock.wait, notice_period_s):
        # What launchers that do not hold the machine's lock have begun, or a killed one has left.
        with _held(folder / MEASURING_FILE, lock.wait, notice_period_s):
            pass
        yield


@contextmanager
def measuring_lock(lock: Lock) -> Iterator[None]:
    """Be the one process that measures on this machine.

    Waits whatever lock.wait says: a run that has begun is not refused because a cell of its own
    multirun, started beside it by a parallel launcher, is being measured.

    Raises:
        LockUnavailableError: the lock cannot be taken in the folder for it.
    """
    with _held(lock_folder(lock) / MEASURING_FILE, wait=True, notice_period_s=NOTICE_PERIOD_S):
        yield


def lock_folder(lock: Lock, shared: Sequence[Path] = SHARED_FOLDERS) -> Path:
    """lock.folder, else the first of `shared` that all users may write, else the user's own.

    What this user alone may write does not count: root would hold a lock that nobody else sees.

    Raises:
        LockUnavailableError: lock.folder is no folder, or depends on where greenlab is started.
    """
    if not lock.folder:
        usable = filter(_is_writable_by_all, shared)
        return next(usable, Path(tempfile.gettempdir()))
    folder = Path(lock.folder).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        raise LockUnavailableError(
            f"lock.folder={lock.folder} is not the absolute path of a folder that exists; make one "
            "that all users of this machine may write (mkdir -m 1777), or leave it to greenlab: "
            "lock.folder=null"
        )
    return folder


def _is_writable_by_all(folder: Path) -> bool:
    # The second: not on a file system that is mounted read-only.
    return folder.is_dir() and bool(folder.stat().st_mode & 0o002) and os.access(folder, os.W_OK)


def find_holder(lock: Lock) -> str:
    """Who has this machine now, in words; empty where nobody has.

    Raises:
        LockUnavailableError: the lock cannot be looked at.
    """
    for name in (MACHINE_FILE, MEASURING_FILE):
        file = lock_folder(lock) / name
        if file.exists() and not _try(_file_lock(file), timeout_s=0):
            return describe_holder(file)
    return ""


def describe_holder(file: Path, locks: Path = PROC_LOCKS) -> str:
    """Who holds the lock on `file`, in words: process, user, since when, command."""
    pid = _holding_pid(file, locks)
    if pid is None:
        return _UNSEEN
    try:
        process = psutil.Process(pid)
        since = datetime.fromtimestamp(process.create_time(), UTC)
        return (
            f"process {pid} of {process.username()}, running since {since:%Y-%m-%d %H:%M:%S} UTC: "
            f"{_command(process)}"
        )
    except psutil.Error:  # hidden from this user, or just gone
        return f"process {pid}"


def _holding_pid(file: Path, locks: Path) -> int | None:
    try:
        status, table = file.stat(follow_symlinks=False), locks.read_text()
    except OSError:
        return None
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    place = f"{major:02x}:{minor:02x}:{status.st_ino}"
    # 3: FLOCK  ADVISORY  WRITE 21286 fe:00:2162952 0 EOF
    for line in table.splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == place:
            return int(fields[4])
    return None


def _command(process: psutil.Process) -> str:
    """What a user typed to start `process`, not what multiprocessing made of it."""
    commands = [shlex.join(one.cmdline()) for one in (process, *process.parents())]
    typed = [one for one in commands if "greenlab" in one and "from multiprocessing." not in one]
    shown = without_password((typed or commands)[0]) or ""
    if len(shown) > MAX_COMMAND_CHARACTERS:
        shown = shown[:MAX_COMMAND_CHARACTERS] + " …"
    # It is another user's: no escape sequences of theirs on this terminal.
    return "".join(character if character.isprintable() else "?" for character in shown)


@contextmanager
def _held(file: Path, wait: bool, notice_period_s: float) -> Iterator[None]:
    lock = _file_lock(file)
    if wait:
        _wait(lock, file, notice_period_s)
    elif not _try(lock, timeout_s=GRACE_S):
        raise MachineBusyError(
            f"this machine is taken by {describe_holder(file)}. Wait for it with lock.wait=true, "
            "or start again when it has ended"
        )
    try:
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, file: Path, notice_period_s: float) -> None:
    began_s = time.monotonic()
    if _try(lock, timeout_s=0):
        return
    while True:
        logger.warning(
            "waiting, %.0f s so far, until this machine is free: it is taken by %s. Ctrl-C ends "
            "the wait; lock.wait=false refuses instead",
            time.monotonic() - began_s,
            describe_holder(file),
        )
        if _try(lock, timeout_s=notice_period_s):
            logger.warning("this machine is free, after %.0f s", time.monotonic() - began_s)
            return


def _file_lock(file: Path) -> FileLock:
    # Mode: whoever comes first makes it for all. No soft lock: it would outlive its process.
    return FileLock(
        file,
        mode=0o666,
        thread_local=False,
        poll_interval=POLL_PERIOD_S,
        fallback_to_soft=False,
    )


def _try(lock: FileLock, timeout_s: float) -> bool:
    """Whether `lock` was taken within that time.

    Neither links are followed, nor is anything in the file touched, whoever put it there.
    """
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    except OSError as error:
        raise LockUnavailableError(
            f"the lock {lock.lock_file}, for one measurement at a time on this machine, cannot be "
            f"taken ({error.strerror}); name another folder with lock.folder, on a local disk and "
            "writable by all users of this machine (mkdir -m 1777)"
        ) from error
    return True
