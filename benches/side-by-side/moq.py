"""moq-relay under the load of `moq-load`, on loopback."""

import os
import queue
import socket
import subprocess

from process import Failed, cost, listens, lines, running, wait_until

# What each side may run on: the relay has one core for itself, if there is another for the load.
CORES = sorted(os.sched_getaffinity(0))
RELAY_CORES, LOAD_CORES = (CORES[:1], CORES[1:]) if len(CORES) > 1 else (CORES, CORES)

# The load gives up connecting after 40 s; then it warms up for one.
CONNECT_SECONDS_MAX = 45


def measure(rivals, io, job):
    """One run; `io` is tokio or uring, one worker each."""
    port = free_port()
    relay = pinned(RELAY_CORES) + [str(rivals.moq_relay), "--listen", f"127.0.0.1:{port}"]
    relay += ["--listen-tls-cert", str(rivals.certificate), "--listen-tls-key", str(rivals.key)]
    relay += ["--auth-public", "**", "--runtime-workers", "1"] + (["--runtime-io-uring"] if io == "uring" else [])
    load = pinned(LOAD_CORES) + [str(rivals.moq_load), "--url", f"moql://127.0.0.1:{port}"]
    load += ["--subscribers", str(job.subscribers), "--bitrate", str(job.bitrate), "--seconds", str(job.seconds)]
    said = rivals.folder / f"moq-relay-{io}.log"
    quiet = {**os.environ, "RUST_LOG": "error"}
    with open(said, "w") as log, running(relay, stdout=log, stderr=log, env=quiet) as relay:
        wait_until(lambda: listens(relay.pid, port), f"moq-relay listens (it says why not in {said})", relay)
        with running(load, stdout=subprocess.PIPE, text=True) as load:
            said = lines(load.stdout)
            hear(said, "ready", CONNECT_SECONDS_MAX)
            first = hear(said, "begin", 5), cost(relay.pid), cost(load.pid)
            last = hear(said, "end", job.seconds + 10), cost(relay.pid), cost(load.pid)
    return {
        "seconds": (last[0]["at_us"] - first[0]["at_us"]) / 1e6,
        "gbit": (last[0]["bytes"] - first[0]["bytes"]) * 8e-9,
        "datagrams": None,
        "cpu_s": last[1][0] - first[1][0],
        "waited_s": last[1][1] - first[1][1],
        "load_cpu_s": last[2][0] - first[2][0],
        "delay_p50_ms": last[0]["delay_us"]["p50"] / 1e3,
        "delay_p99_ms": last[0]["delay_us"]["p99"] / 1e3,
        "lost": last[0]["groups_broken_off"] - first[0]["groups_broken_off"],
    }


def hear(said, event, seconds_max):
    """The next line of the load, which must be this one."""
    try:
        line = said.get(timeout=seconds_max)
    except queue.Empty:
        raise Failed(f"moq-load did not say {event!r} within {seconds_max} s") from None
    if line is None or line["event"] != event:
        raise Failed(f"moq-load said {line} instead of {event!r}; what went wrong is above")
    return line


def pinned(cores):
    """The beginning of a command that runs on these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


def free_port():
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
