"""GStreamer's multiudpsink, fed through udpsrc, in the lab of `superpeer bench relay --sink lab`: two network
namespaces and a veth pair; what is for most clients is dropped at the relay's device, a sample is received.

Run as a program it is one measurement, and has to be in a network namespace of its own already.
"""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

from process import Failed, cost, listens, output, running, wait_until

RELAY, FEEDER, CLIENTS, PORT = "10.96.0.2", "10.96.0.1", "10.97.0.0", 9000

# As long as a shard datagram; to multiudpsink all of it is payload.
DATAGRAM_BYTES = 1232

# As in superpeer's lab.
RECEIVERS = 64
SOCKET_BUFFER_BYTES = 8 << 20

WARM_UP_SECONDS = 1

# Their list is one argument of a command, which Linux keeps below 128 KiB.
CLIENTS_MAX = 5000


def measure(job):
    """One run, in a network namespace that ends with it."""
    if job.subscribers > CLIENTS_MAX:
        raise Failed(f"multiudpsink takes its clients in one argument: {CLIENTS_MAX} at most")
    command = ["unshare", "--net", "--", sys.executable, __file__]
    command += [str(job.subscribers), str(job.bitrate), str(job.seconds)]
    return json.loads(output(command, seconds_max=job.seconds + 45))


def stride(clients):
    """One client out of this many receives; a power of two."""
    share = -(-clients // RECEIVERS)
    return 1 << (share - 1).bit_length()


def run(clients, bitrate, seconds):
    """The measurement."""
    launch = ["gst-launch-1.0", "-q", "udpsrc", f"address={RELAY}", f"port={PORT}", "retrieve-sender-address=false"]
    launch += [f"buffer-size={SOCKET_BUFFER_BYTES}", "!", "multiudpsink", "sync=false", "async=false"]
    first = int.from_bytes(socket.inet_aton(CLIENTS), "big")
    addresses = (socket.inet_ntoa((first + number).to_bytes(4, "big")) for number in range(clients))
    launch += [f"buffer-size={SOCKET_BUFFER_BYTES}", "clients=" + ",".join(f"{to}:{PORT}" for to in addresses)]
    # It says that it is in its namespace, and waits until that is tied to ours.
    command = ["unshare", "--net", "--", "sh", "-c", 'echo; read -r _ && exec "$@"', "sh", *launch]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        if not relay.stdout.readline():
            raise Failed("unshare gives no network namespace")
        set_up_lab(relay.pid, stride(clients))
        relay.stdin.write("\n")
        relay.stdin.flush()
        wait_until(lambda: listens(relay.pid, PORT), "gst-launch-1.0 listens", relay)
        sample = Sample()
        threading.Thread(target=sample.receive, daemon=True).start()
        with feeding(bitrate):
            time.sleep(WARM_UP_SECONDS)
            moments = [moment(relay.pid, sample)]
            time.sleep(seconds)
            moments.append(moment(relay.pid, sample))
    elapsed, cpu, waited, dropped, passed, received = (after - before for before, after in zip(*moments))
    datagrams = dropped + passed
    return {
        "seconds": elapsed,
        "gbit": datagrams * DATAGRAM_BYTES * 8e-9,
        "datagrams": datagrams,
        "cpu_s": cpu,
        "waited_s": waited,
        "delay_p50_ms": None,
        "delay_p99_ms": None,
        "lost": None,
        "sample_sent": passed,
        "sample_received": received,
    }


def moment(pid, sample):
    """What has been counted up to now."""
    return time.monotonic(), *cost(pid), *counters(pid), sample.received


def set_up_lab(pid, share):
    """Ties this namespace to that of the process, and lets one client of so many receive (`lab.rs` does the same)."""
    for_relay = ["nsenter", "--target", str(pid), "--net", "--"]
    commands = [
        "ip link set lo up",
        f"ip link add load0 type veth peer name relay0 netns {pid}",
        f"ip address add {FEEDER}/24 dev load0",
        "ip link set load0 up",
        f"ip route replace local {CLIENTS}/16 dev lo",
    ]
    for command in commands:
        output(command.split(), seconds_max=5)
    inside = [
        "ip link set lo up",
        f"ip address add {RELAY}/24 dev relay0",
        "ip link set relay0 up",
        f"ip route add {CLIENTS}/16 via {FEEDER}",
    ]
    for command in inside:
        output(for_relay + command.split(), seconds_max=5)
    mask = socket.inet_ntoa((share - 1).to_bytes(4, "big"))
    drop = f"ip daddr {CLIENTS}/16 ip daddr & {mask} != 0.0.0.0 udp length > 1000 counter drop\n" if share > 1 else ""
    count = f"ip daddr {CLIENTS}/16 udp length > 1000 counter\n"
    chain = 'chain egress { type filter hook egress device "relay0" priority 0; policy accept;\n'
    output(for_relay + ["nft", f"table netdev lab {{\n{chain}{drop}{count}}}\n}}"], seconds_max=5)


def counters(pid):
    """Datagrams dropped at the relay's device, and passed."""
    listing = ["nft", "--json", "list", "chain", "netdev", "lab", "egress"]
    command = ["nsenter", "--target", str(pid), "--net", "--", *listing]
    entries = json.loads(output(command, seconds_max=5))["nftables"]
    rules = [entry["rule"]["expr"] for entry in entries if "rule" in entry]
    counts = [part["counter"]["packets"] for rule in rules for part in rule if "counter" in part]
    return (0, *counts)[-2:]


@contextlib.contextmanager
def feeding(bitrate):
    """Sends the stream to the relay meanwhile."""
    over = threading.Event()
    feeder = threading.Thread(target=feed, args=[bitrate, over])
    feeder.start()
    try:
        yield
    finally:
        over.set()
        feeder.join()


def feed(bitrate, over):
    """Sends one datagram after the other; the rate holds however late one was."""
    payload = bytes(DATAGRAM_BYTES)
    interval = DATAGRAM_BYTES * 8 / bitrate
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            out.sendto(payload, (RELAY, PORT))
            due += interval


class Sample:
    """The clients that receive, all on one socket."""

    def __init__(self):
        self.received = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        so_rcvbufforce = 33  # socket(7); Python has no name for it.
        self.socket.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, SOCKET_BUFFER_BYTES)
        self.socket.bind(("0.0.0.0", PORT))

    def receive(self):
        """Counts the datagrams that came whole."""
        while True:
            self.received += self.socket.recv(DATAGRAM_BYTES + 1) == bytes(DATAGRAM_BYTES)


if __name__ == "__main__":
    try:
        print(json.dumps(run(*map(int, sys.argv[1:]))))
    except Failed as why:
        sys.exit(f"gstreamer.py: {why}")
