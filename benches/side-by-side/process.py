"""Processes that end with this one, and what they cost."""

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path


class Failed(Exception):
    """A measurement that could not be made, and why."""


@contextlib.contextmanager
def running(command, **options):
    """Starts a program; ends it however the block is left. The kernel ends it if this process is killed."""
    child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(timeout=3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def output(command, seconds_max, **options):
    """What a program prints, which must succeed within the time; its standard error goes where ours does."""
    with running(command, stdout=subprocess.PIPE, text=True, **options) as child:
        try:
            said, _ = child.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise Failed(f"{command[0]} is not done after {seconds_max:.0f} s") from None
        if child.returncode != 0:
            raise Failed(f"{command[0]} ended with status {child.returncode}")
        return said


def lines(stream):
    """A queue of a stream's lines, as JSON, from a thread of its own; None is its end."""
    found = queue.Queue()

    def read():
        for line in stream:
            found.put(json.loads(line))
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def wait_until(there, what, child, seconds_max=15):
    """Waits for a condition that a running program brings about."""
    give_up_at = time.monotonic() + seconds_max
    while not there():
        if child.poll() is not None:
            raise Failed(f"{what}: the program ended with status {child.returncode}")
        if time.monotonic() > give_up_at:
            raise Failed(f"{what}: not within {seconds_max} s")
        time.sleep(0.02)


def listens(pid, port):
    """Whether a UDP socket in the network namespace of a process is bound to the port (proc_pid_net(5))."""
    table = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") for line in table)


def cost(pid):
    """Processor time of all threads, the kernel's part included, and the time for which they could have run but had no
    core; seconds (`utime` and `stime` of proc_pid_stat(5), the second field of `schedstat`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # A thread may end meanwhile.
            waited_ns += int((task / "schedstat").read_text().split()[1])
    return cpu, waited_ns / 1e9
