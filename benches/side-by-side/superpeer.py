"""Ours: `superpeer bench relay`."""

import json

from process import output


def measure(binary, io, sink, job, channels=1):
    """One run; `io` is uring or mmsg, `sink` lab or loopback. Every subscriber has every channel."""
    command = [str(binary), "bench", "relay", "--json", "--io", io, "--sink", sink]
    command += ["--channels", str(channels), "--subscribers", str(job.subscribers)]
    command += ["--bitrate", str(job.bitrate), "--seconds", str(job.seconds)]
    found = json.loads(output(command, seconds_max=job.seconds + 60))
    seconds, delay = found["seconds"], found["delay_us"]
    return {
        "channels": channels,
        "seconds": seconds,
        "gbit": found["goodput_gbps"] * seconds,
        "datagrams": found["datagrams_per_s"] * seconds,
        "cpu_s": found["relay_process_cpu_s"],
        "waited_s": found["relay_waited_share"] * seconds,
        # Of a chunk's copies the middle one, and the last: its p99 is no less than that of all copies.
        "delay_p50_ms": delay["median"]["p50"] / 1e3,
        "delay_p99_ms": delay["last"]["p99"] / 1e3,
        "lost": found["drops"]["total"],
    }
