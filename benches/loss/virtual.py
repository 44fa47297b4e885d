"""What is measured on virtual time: it does not depend on what else the machine does."""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from process import Failed, output

# No run takes as long on any machine that is of use.
SECONDS_MAX = 3_600

LOST, TO_VIEWER, UPLINK = "share_lost", "to_subscriber_beyond_data", "uplink_beyond_data"
CLEAN_UPLINK = "--uplink-loss 0% --uplink-rtt 20ms"


@dataclass
class Row:
    """A measurement, and the most that its figures may be."""

    name: str
    options: str
    goals: dict = field(default_factory=dict)


ROWS = [
    Row("3 % on each of two hops", "--loss 3% --rtt 100ms --delay 400ms", {LOST: 0}),
    Row("10 % on each of two hops", "--loss 10% --rtt 100ms --delay 400ms", {LOST: 0}),
    Row("3 % in bursts of 5 on each of two hops", "--loss 3% --burst 5 --rtt 100ms --delay 400ms", {LOST: 0}),
    Row("no loss", "--loss 0% --rtt 50ms --delay 400ms", {LOST: 0, TO_VIEWER: 0.01, UPLINK: 0.02}),
    Row(
        "3 % on the last hop, time for repair",
        f"{CLEAN_UPLINK} --loss 3% --rtt 50ms --delay 400ms",
        {LOST: 0, TO_VIEWER: 0.08, UPLINK: 0.02},
    ),
    Row(
        "3 % on the last hop, no time for repair, k = 32",
        f"{CLEAN_UPLINK} --loss 3% --rtt 300ms --delay 200ms --bitrate 10M",
        {LOST: 1e-4, TO_VIEWER: 0.3, UPLINK: 0.02},
    ),
]


def measure(superpeer, root, extent):
    """What `superpeer sim loss` finds for each row, and what making shards anew is worth; as many at a time as there are
    cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        # The longest first.
        remade = pool.submit(measure_regeneration, root, extent.chunks)
        found = [pool.submit(loss, superpeer, f"{row.options} --minutes {extent.minutes}") for row in ROWS]
        return {row.name: future.result()[0] for row, future in zip(ROWS, found)}, remade.result()


SWEEP = f"{CLEAN_UPLINK} --loss {','.join(f'{loss}%' for loss in range(13))} --rtt 20ms,50ms,100ms,300ms --delay 400ms"


def sweep(superpeer, minutes, chart):
    """Losses and round trips, on all cores."""
    return loss(superpeer, f"{SWEEP} --minutes {minutes}" + (f" --svg {chart}" if chart else ""))


def loss(superpeer, options):
    """What `superpeer sim loss` finds."""
    said = output([str(superpeer), "sim", "loss", *options.split(), "--json"], SECONDS_MAX)
    return [json.loads(line) for line in said.splitlines()]


REGENERATION = "cargo test --release -p mesh --test loss regeneration -- --show-output"


def measure_regeneration(root, chunks):
    """The shares of chunks that are lost, with shards made anew and without."""
    environment = {**os.environ, "CHUNKS": str(chunks)}
    said = output(REGENERATION.split(), SECONDS_MAX, cwd=root, env=environment, stderr=subprocess.DEVNULL)
    found = re.search(r"lost (\S+) with shards made anew, (\S+) without", said)
    if not found:
        raise Failed(f"`{REGENERATION}` does not say how many chunks were lost")
    return float(found[1]), float(found[2])


def search(superpeer, seeds):
    """What `superpeer sim` says of so many seeds; a seed that fails is told on standard error."""
    command = [str(superpeer), "sim", "--seeds", str(seeds)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=SECONDS_MAX, check=False)
    return {"said": ended.stdout.strip(), "status": ended.returncode}
