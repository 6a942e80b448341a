"""The lock for one measurement at a time, between processes, users and kinds of death."""

import getpass
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from greenlab.config import Lock
from greenlab.errors import LockUnavailableError, MachineBusyError
from greenlab.machine_lock import (
    MACHINE_FILE,
    MEASURING_FILE,
    describe_holder,
    find_holder,
    lock_folder,
    machine_lock,
    measuring_lock,
)

IS_ROOT = os.geteuid() == 0
NOBODY = 65534

BEGIN = """
import logging, multiprocessing, os, subprocess, sys, time
from greenlab.config import Lock
from greenlab.machine_lock import machine_lock, measuring_lock
logging.basicConfig(format="%(message)s")
lock = Lock(folder=sys.argv[1])
"""
HOLD = "with machine_lock(lock): print('held', flush=True); sys.stdin.readline()"
MEASURE = "with measuring_lock(lock): print('held', flush=True); sys.stdin.readline()"
AS_NOBODY = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def lock() -> Iterator[Lock]:
    """Never waits; its folder is as /run/lock is."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own lets nobody else in
        Path(folder).chmod(0o1777)
        yield Lock(wait=False, folder=folder)


@pytest.fixture
def start(lock: Lock) -> Iterator[Start]:
    """Start a script on the lock's folder; by default one that holds it until it reads a line."""
    started = []

    def start_script(script: str = HOLD, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + script, str(lock.folder), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_script
    for process in started:
        process.kill()
        process.communicate()


def next_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def next_error(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.readline().strip()


def let_go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def refusal(lock: Lock) -> str:
    with pytest.raises(MachineBusyError) as refused, machine_lock(lock):
        pass
    return str(refused.value)


def is_free(lock: Lock) -> bool:
    with machine_lock(lock):
        return True


# ---------------------------------------------------------------------------- one at a time


def test_two_processes_never_measure_at_once(start: Start, tmp_path: Path) -> None:
    script = """
with open(sys.argv[2], "a") as log:
    sys.stdin.readline()
    for _ in range(5):
        with measuring_lock(lock):
            for mark in "be":
                print(mark, end="", file=log, flush=True)
                time.sleep(0.02)
"""
    log = tmp_path / "log"
    processes = [start(script, str(log)) for _ in range(2)]
    for process in processes:
        let_go(process)
    for process in processes:
        assert process.wait() == 0

    assert log.read_text() == "be" * 10


def test_the_second_waits_and_says_for_whom(
    lock: Lock, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first = start()
    assert next_line(first) == "held"
    threading.Timer(1.0, let_go, [first]).start()

    with machine_lock(Lock(folder=lock.folder), notice_period_s=0.3):
        first.wait()

    *waits, end = caplog.messages
    assert 2 <= len(waits) <= 4
    assert waits[0].startswith("waiting, 0 s so far, until this machine is free: it is taken by")
    assert f"process {first.pid} of {getpass.getuser()}, running since 20" in waits[0]
    assert end == "this machine is free, after 1 s"


def test_without_waiting_the_second_is_told_who_has_the_machine(lock: Lock, start: Start) -> None:
    first = start()
    next_line(first)

    message = refusal(lock)

    assert f"process {first.pid} of {getpass.getuser()}, running since 20" in message
    assert f"{sys.executable} -c " in message
    assert "lock.wait=true" in message


def test_the_command_is_shown_without_passwords_and_escapes(lock: Lock) -> None:
    program = "import sys, fcntl; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(); input()"
    file = Path(str(lock.folder)) / MACHINE_FILE
    arguments = ["http://ann:hunter2@lab", "\33[31m"]
    with subprocess.Popen(
        [sys.executable, "-uc", program, file, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        next_line(process)
        shown = describe_holder(file)
        process.kill()

    assert "http://ann:***@lab" in shown
    assert "'?[31m'" in shown


def test_the_command_is_what_was_typed(lock: Lock, start: Start) -> None:
    launcher = start(
        """
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.Process(target=exec, args=(sys.argv[2], {})).start()
""",
        f"import sys; sys.argv = ['', {lock.folder!r}]\n{BEGIN}"
        "with measuring_lock(lock): print('held', flush=True); time.sleep(30)",
    )
    assert next_line(launcher) == "held"
    below = psutil.Process(launcher.pid).children(recursive=True)
    try:
        shown = find_holder(lock)
    finally:
        for process in below:
            process.kill()

    measuring = next(one for one in below if f"process {one.pid} of" in shown)
    assert measuring.pid != launcher.pid
    assert f"{sys.executable} -c " in shown
    assert "forkserver import main" not in shown


# ------------------------------------------------------------------------------ the two locks


def test_a_launcher_does_not_start_beside_a_cell_that_a_killed_one_left(
    lock: Lock, start: Start
) -> None:
    measuring = start(MEASURE)
    next_line(measuring)

    assert f"process {measuring.pid}" in refusal(lock)

    threading.Timer(0.5, let_go, [measuring]).start()  # it ends within the grace
    assert is_free(lock)


def test_a_cell_waits_even_where_its_launcher_would_be_refused(
    lock: Lock, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    measuring = start(MEASURE)
    next_line(measuring)
    threading.Timer(0.5, let_go, [measuring]).start()

    with measuring_lock(lock):
        assert f"process {measuring.pid}" in caplog.text


def test_a_launcher_s_own_cells_measure(lock: Lock, start: Start) -> None:
    with machine_lock(lock):
        assert next_line(start(MEASURE)) == "held"


# ------------------------------------------------------------------------------------- deaths


def test_kill_9_frees_the_machine_whatever_the_holder_had_started(lock: Lock, start: Start) -> None:
    script = """
with machine_lock(lock), measuring_lock(lock):
    sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    if (forked := os.fork()) == 0:
        time.sleep(60)
    print(sleeper.pid, forked, flush=True)
    time.sleep(60)
"""
    holder = start(script)
    left_behind = [psutil.Process(int(pid)) for pid in next_line(holder).split()]
    try:
        assert find_holder(lock)
        holder.kill()
        holder.wait()

        assert is_free(lock)
        assert all(one.is_running() for one in left_behind)
    finally:
        for one in left_behind:
            one.kill()


def test_ctrl_c_ends_the_wait(lock: Lock, start: Start) -> None:
    first = start()
    next_line(first)
    second = start()
    assert f"process {first.pid}" in next_error(second)

    second.send_signal(signal.SIGINT)

    assert second.wait(timeout=2) == -signal.SIGINT
    assert first.poll() is None
    let_go(first)
    first.wait()
    assert is_free(lock)


# ------------------------------------------------------------------------------------- folders


def test_the_folder_is_one_that_all_users_may_write(tmp_path: Path) -> None:
    roots_own, shared = tmp_path / "run", tmp_path / "tmp"
    roots_own.mkdir(mode=0o755)
    shared.mkdir()
    shared.chmod(0o1777)

    assert lock_folder(Lock(), [tmp_path / "none", roots_own, shared]) == shared
    assert lock_folder(Lock(), [roots_own]) == Path(tempfile.gettempdir())


def test_the_folder_can_be_set(tmp_path: Path) -> None:
    assert lock_folder(Lock(folder=str(tmp_path)), [Path("/tmp")]) == tmp_path


@pytest.mark.parametrize("folder", ["/nowhere/at/all", "relative", "."])
def test_a_folder_that_is_not_there_is_refused(folder: str) -> None:
    with pytest.raises(LockUnavailableError, match=r"lock\.folder=.*mkdir -m 1777"):
        lock_folder(Lock(folder=folder))


def test_a_planted_link_is_not_followed(lock: Lock, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (Path(str(lock.folder)) / MACHINE_FILE).symlink_to(victim)

    with pytest.raises(LockUnavailableError, match=r"lock\.folder"):
        is_free(lock)

    assert victim.read_text() == "kept"


# ---------------------------------------------------------------------------------- who has it


def test_nobody_has_a_machine_that_was_never_used(lock: Lock) -> None:
    assert find_holder(lock) == ""
    assert list(Path(str(lock.folder)).iterdir()) == []


@pytest.mark.parametrize("held", [machine_lock, measuring_lock])
def test_whoever_has_the_machine_is_found(
    lock: Lock, held: Callable[[Lock], AbstractContextManager[None]]
) -> None:
    with held(lock):
        assert find_holder(lock).startswith(f"process {os.getpid()} of {getpass.getuser()}")
    assert find_holder(lock) == ""


def test_a_process_that_cannot_be_seen_is_not_guessed(lock: Lock, tmp_path: Path) -> None:
    with measuring_lock(lock):
        file = Path(str(lock.folder)) / MEASURING_FILE
        table = tmp_path / "locks"
        table.write_text(f"1: FLOCK  ADVISORY  WRITE 1 fff:fff:{file.stat().st_ino} 0 EOF\n")

        assert "cannot be seen" in describe_holder(file, table)  # the same number on another disk
        assert "cannot be seen" in describe_holder(file, tmp_path / "none")


# ------------------------------------------------------------------------------------ two users


@pytest.mark.skipif(not IS_ROOT, reason="only root can be two users")
@pytest.mark.parametrize("first", ["root", "nobody"])
def test_users_share_the_lock_whoever_made_its_file(lock: Lock, start: Start, first: str) -> None:
    private = "os.umask(0o077)\n" + ("" if first == "root" else AS_NOBODY)
    maker = start(private + HOLD)
    assert next_line(maker) == "held"
    let_go(maker)
    maker.wait()
    assert {file.stat().st_mode & 0o777 for file in Path(str(lock.folder)).iterdir()} == {0o666}

    other = start(("" if first == "nobody" else AS_NOBODY) + HOLD)
    assert next_line(other) == "held"
    user = "root" if first == "nobody" else "nobody"
    assert find_holder(lock).startswith(f"process {other.pid} of {user}")


@pytest.mark.skipif(not IS_ROOT, reason="only root can be another user")
def test_a_folder_that_this_user_may_not_write_is_refused(lock: Lock, start: Start) -> None:
    Path(str(lock.folder)).chmod(0o755)
    refused = start(AS_NOBODY + HOLD)
    message = refused.communicate()[1]

    assert "LockUnavailableError" in message
    assert "name another folder with lock.folder" in message
