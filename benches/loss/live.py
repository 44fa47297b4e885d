"""What is measured with real processes on loopback: `superpeer impair` between them is the bad network."""

import json
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from process import Failed, output, running

# Parity follows reports, of which there is one a second: what is lost before the first ones does not count.
WARM_UP_S = 10

BYTES_PER_S = 500_000
PIECES_PER_S = 100

LOSSY = {
    "3 % on each of two hops": "--loss 3%",
    "10 % on each of two hops": "--loss 10%",
    "3 % in bursts of 5 on each of two hops": "--loss 3% --burst 5",
}
THIN, KILLED = "a line of 2 Mbit/s", "one upstream of two killed"

# Within this, whatever is waited for is there, or something is wrong.
SECONDS_MAX = 30


def measure(programs, seconds):
    """All at the same time; each with a publisher, relays and viewers of its own."""
    jobs = {name: (lossy, options) for name, options in LOSSY.items()} | {THIN: (thin,), KILLED: (killed,)}

    def run(job):
        function, *options = job
        with ExitStack() as stack:
            return function(Lab(stack, programs), seconds, *options)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return dict(zip(jobs, pool.map(run, jobs.values())))


def lossy(lab, seconds, options):
    """A publisher and a viewer, each behind a bad network."""
    relay = lab.relay()
    near, far = (lab.impair(relay.address, both_ways(f"--delay 50ms {options}")) for _ in range(2))
    viewer = lab.viewer([far.address], "--delay-ms", "400")
    publisher = lab.publisher([near.address])
    publisher.feed(WARM_UP_S)
    warm_bytes, before = len(publisher.fed), viewer.stats()["skipped"]
    publisher.feed(seconds)
    skipped = lab.end(publisher, viewer)
    networks = [network.counts() for network in (near, far)]
    passed = [networks[0]["forth"], networks[1]["back"]]
    return {
        "chunks_lost": skipped - before,
        "identical": viewer.written().endswith(publisher.fed[warm_bytes:]),
        "bytes": len(publisher.fed) - warm_bytes,
        "datagrams_lost": sum(direction["lost"] for direction in passed),
        "datagrams": sum(direction["datagrams"] for direction in passed),
    }


def thin(lab, seconds):
    """A viewer whose line takes half of the stream, and one whose line takes all."""
    relay = lab.relay()
    line = lab.impair(relay.address, both_ways("--delay 25ms") + ["--back-rate", "2M"])
    other = lab.viewer([relay.address])
    publisher = lab.publisher([relay.address])
    publisher.feed(WARM_UP_S / 2)
    viewer = lab.viewer([line.address])
    publisher.feed(seconds)
    strained, let_go = viewer.find("the line seems too thin"), viewer.find("let go by .*: (.*); trying again")
    skipped = lab.end(publisher, other)
    return {
        "told_after_s": strained.at - viewer.connected_at,
        "let_go_after_s": let_go.at - viewer.connected_at,
        "message": let_go.found[1],
        "chunks_lost": skipped,
        "identical": other.written() == publisher.fed,
        "bytes": len(publisher.fed),
    }


def killed(lab, seconds):
    """A viewer that takes a half from each of two relays, of which one is killed in the middle."""
    relays = [lab.relay(), lab.relay()]
    addresses = [relay.address for relay in relays]
    viewer = lab.viewer(addresses, "--upstreams", "2")
    publisher = lab.publisher(addresses)
    publisher.feed(WARM_UP_S)
    shares = [upstream["share"] for upstream in viewer.stats()["upstreams"]]
    publisher.feed(seconds / 2)
    relays[0].child.kill()
    publisher.feed(seconds / 2)
    skipped = lab.end(publisher, viewer)
    return {
        "shares": shares,
        "chunks_lost": skipped,
        "identical": viewer.written() == publisher.fed,
        "bytes": len(publisher.fed),
    }


def both_ways(options):
    """Options of `superpeer impair`, for the way there and the way back."""
    return [*options.split(), *options.replace("--", "--back-").split()]


class Lab:
    """A channel, and programs that end with it."""

    def __init__(self, stack, programs):
        self.stack = stack
        self.programs = programs
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.key = self.folder / "channel.key"
        output([programs / "superpeer", "keygen", self.key], SECONDS_MAX)

    def start(self, kind, program, *arguments, **options):
        command = [str(word) for word in (self.programs / program, *arguments)]
        pipes = {"stderr": subprocess.PIPE, "text": True, **options}
        return kind(self.stack.enter_context(running(command, **pipes)), program)

    def relay(self):
        relay = self.start(Program, "superpeerd", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--open")
        relay.address = relay.find(r" on UDP ([\d.:]+)").found[1]
        return relay

    def impair(self, target, options):
        command = ["impair", "--listen", "127.0.0.1:0", "--to", target, "--json", *options]
        network = self.start(Network, "superpeer", *command, stdout=subprocess.PIPE)
        network.address = network.find(r"listening on ([\d.:]+)").found[1]
        return network

    def viewer(self, relays, *options):
        named = [word for relay in relays for word in ("--relay", relay)]
        link = output([self.programs / "superpeer", "link", *named, self.key], SECONDS_MAX).strip()
        path = self.folder / f"viewer-{time.monotonic_ns()}"
        viewer = self.start(Viewer, "superpeer", "watch", link, path, "--stats", *options)
        viewer.path = path
        viewer.connected_at = max(viewer.find(f"connected to {relay}").at for relay in relays)
        return viewer

    def publisher(self, relays):
        named = [word for relay in relays for word in ("--relay", relay)]
        # Bytes, and not text, go in; what it says is text.
        publisher = self.start(
            Publisher, "superpeer", "publish", "--key", self.key, *named, stdin=subprocess.PIPE, text=False
        )
        for relay in relays:
            publisher.find(f"connected to {relay}")
        return publisher

    def end(self, publisher, viewer):
        """Ends the stream, and with it the viewer; how many chunks that one left out."""
        publisher.child.stdin.close()
        publisher.wait()
        missed = viewer.find(r"watched: .*missed (\d+);")
        viewer.wait()
        return int(missed.found[1])


class Said:
    """A line that was looked for, and when it was said."""

    def __init__(self, at, found):
        self.at = at
        self.found = found


class Program:
    """A running program and all that it says on standard error, each line with its time."""

    def __init__(self, child, name):
        self.child = child
        self.name = name
        self.lines = []
        self.news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stderr:
            text = line if isinstance(line, str) else line.decode()
            with self.news:
                self.lines.append((time.monotonic(), text.rstrip()))
                self.news.notify_all()

    def find(self, pattern):
        """The first line with it, as soon as there is one."""
        looked = lambda: next(
            (Said(at, found) for at, line in self.lines if (found := re.search(pattern, line))), None
        )
        with self.news:
            said = self.news.wait_for(looked, SECONDS_MAX)
        if said is None:
            last = "\n".join(line for _, line in self.lines[-5:])
            raise Failed(f"{self.name} does not say {pattern!r} within {SECONDS_MAX} s, but:\n{last}")
        return said

    def wait(self):
        """Until it has ended, as it should."""
        if self.child.wait(SECONDS_MAX) != 0:
            raise Failed(f"{self.name} ended with status {self.child.returncode}: {self.lines[-1:]}")


class Network(Program):
    """`superpeer impair`."""

    def counts(self):
        """Ends it."""
        self.child.send_signal(signal.SIGINT)
        self.wait()
        return json.loads(self.child.stdout.read())


class Viewer(Program):
    """`superpeer watch --stats`."""

    def stats(self):
        """What it said last."""
        with self.news:
            return json.loads(next(line for _, line in reversed(self.lines) if line.startswith("{")))

    def written(self):
        """All that it wrote."""
        return self.path.read_bytes()


class Publisher(Program):
    """`superpeer publish`, and what it was fed."""

    def __init__(self, child, name):
        super().__init__(child, name)
        self.fed = bytearray()
        self.noise = random.Random(1)

    def feed(self, seconds):
        """Noise at the pace of a stream."""
        begun = time.monotonic()
        for number in range(round(seconds * PIECES_PER_S)):
            piece = self.noise.randbytes(BYTES_PER_S // PIECES_PER_S)
            self.child.stdin.write(piece)
            self.child.stdin.flush()
            self.fed += piece
            time.sleep(max(0.0, begun + (number + 1) / PIECES_PER_S - time.monotonic()))
