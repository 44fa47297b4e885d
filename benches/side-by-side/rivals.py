"""What is compared: is it there, how it gets there, and which version it is. Nothing is installed unless asked for."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from process import Failed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

MOQ_RELAY_VERSION = "0.17.10"

# Its data path needs no more: not iroh, mDNS and WebSocket, which its default build has too. The allocator is that of
# the packages its authors publish.
MOQ_RELAY_FEATURES = "noq,io-uring,jemalloc"

GSTREAMER_PACKAGES = ["gstreamer1.0-tools", "gstreamer1.0-plugins-base", "gstreamer1.0-plugins-good"]

LAB_TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "nft": "nftables"}


@dataclass
class Rivals:
    """Where everything is."""

    superpeer: Path
    folder: Path

    @property
    def moq_relay(self):
        return self.folder / "bin" / "moq-relay"

    @property
    def moq_load(self):
        return self.folder / "build" / "release" / "moq-load"

    # In a folder of their own: moq-relay reads them again whenever anything beside them changes, its own log for one.
    @property
    def certificate(self):
        return self.folder / "tls" / "certificate.pem"

    @property
    def key(self):
        return self.folder / "tls" / "key.pem"


def find():
    """The folders of this workspace; the rivals' is within that of our own build, which git ignores."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
    return Rivals(target / "release" / "superpeer", target / "side-by-side")


def build_ours():
    """Our own binary, of the workspace that this stands in."""
    must("cargo", "build", "--release", "--package", "tools", "--manifest-path", ROOT / "Cargo.toml")


def install(rivals, sinks):
    """What is missing for these sinks."""
    build_ours()
    if "lab" in sinks and not has_gstreamer():
        must("apt-get", "install", "--yes", "--no-install-recommends", *GSTREAMER_PACKAGES)
    if "loopback" not in sinks:
        return
    rivals.folder.mkdir(parents=True, exist_ok=True)
    build = {**os.environ, "CARGO_TARGET_DIR": str(rivals.folder / "build")}
    command = ["cargo", "install", "moq-relay", "--version", MOQ_RELAY_VERSION, "--root", rivals.folder]
    must(*command, "--no-default-features", "--features", MOQ_RELAY_FEATURES, env=build)
    must("cargo", "build", "--release", "--manifest-path", HERE / "moq-load" / "Cargo.toml", env=build)
    if not rivals.key.exists():
        # Its workers make none for themselves; moq-load does not look at it.
        rivals.key.parent.mkdir(exist_ok=True)
        request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "3650"]
        must(*request, "-out", rivals.certificate, "-keyout", rivals.key)


def check(rivals, sinks):
    """Raises what is missing for these sinks, all at once."""
    missing = []
    if shutil.which("setpriv") is None:
        missing.append("setpriv, of util-linux")
    if not rivals.superpeer.exists():
        missing.append(f"{rivals.superpeer}: run it with --install")
    if "lab" in sinks:
        if os.geteuid() != 0:
            missing.append("root, for the network namespaces of the lab; or use --sink loopback")
        missing += [f"{tool}, of {package}" for tool, package in LAB_TOOLS.items() if shutil.which(tool) is None]
        if not has_gstreamer():
            missing.append(f"multiudpsink, of the packages {' '.join(GSTREAMER_PACKAGES)}: run it with --install")
    if "loopback" in sinks:
        if shutil.which("taskset") is None:
            missing.append("taskset, of util-linux")
        files = [rivals.moq_relay, rivals.moq_load, rivals.certificate, rivals.key]
        missing += [f"{file}: run it with --install" for file in files if not file.exists()]
    if missing:
        raise Failed("this is missing:\n  " + "\n  ".join(missing))


def has_gstreamer():
    """Whether the elements that are used are there."""
    if shutil.which("gst-launch-1.0") is None:
        return False
    inspect = ["gst-inspect-1.0", "--exists", "multiudpsink"]
    return subprocess.run(inspect, check=False).returncode == 0


def machine(sinks):
    """What the figures belong to."""
    facts = {"commit": said("git", "-C", ROOT, "describe", "--always", "--dirty").strip(), "kernel": os.uname().release}
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    facts["cpu"] = models[0].partition(":")[2].strip() if models else os.uname().machine
    facts["cores"] = len(os.sched_getaffinity(0))
    facts["load_average"] = os.getloadavg()[0]
    if "lab" in sinks:
        facts["gstreamer"] = said("gst-launch-1.0", "--version").split()[2]
    if "loopback" in sinks:
        facts["moq_relay"] = MOQ_RELAY_VERSION
    return facts


def must(*command, env=None):
    """Runs a program that says itself what goes wrong."""
    if shutil.which(str(command[0])) is None:
        raise Failed(f"{command[0]} is not installed")
    if subprocess.run(list(map(str, command)), env=env, check=False).returncode != 0:
        raise Failed(f"{command[0]} failed")


def said(*command):
    """What a program says."""
    try:
        return subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as why:
        raise Failed(str(why)) from None
