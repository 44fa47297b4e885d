"""Drives a headless Chromium over the relay's dashboard, compares what it shows with /status, and takes pictures.

    dashboard.py CHROMIUM http://127.0.0.1:PORT FOLDER --relay-pid PID

It speaks the DevTools protocol over a pipe: nothing but Python's own library is needed. PID is stopped and continued, to
see what the page says of a relay that does not answer. Pictures go to FOLDER.
"""

import argparse
import base64
import collections
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
import urllib.request

DEADLINE_S = 30

# Everything that the page shows now, read at once: between two of its statuses nothing changes.
READ = """document.getElementById('silence') && (() => ({
  at_us: Number(document.documentElement.dataset.atUs),
  since_us: Number(document.documentElement.dataset.sinceUs),
  title: document.title,
  state: document.getElementById('state').dataset.state,
  silence: document.getElementById('silence').hidden ? null : document.getElementById('silence').textContent,
  fields: Object.fromEntries([...document.querySelectorAll('[data-field]')].map((e) => [e.dataset.field, e.textContent])),
  tables: Object.fromEntries([...document.querySelectorAll('table[id]')].map((table) =>
    [table.id, [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent))])),
  keys: [...document.querySelectorAll('#channels tbody th')].map((cell) => cell.title),
  plots: [...document.querySelectorAll('#plots figure')].filter((figure) => !figure.hidden).map((figure) =>
    [figure.querySelector('h2').textContent, [...figure.querySelectorAll('.u-value')].map((e) => e.textContent)]),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}))()"""

VIOLATIONS = """window.violations = [];
addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective}: ${e.blockedURI} ${e.sample}`));"""


class Browser:
    """A Chromium with one page, and what it said of it."""

    def __init__(self, program, folder):
        to_read, self.commands = os.pipe()
        self.answers, to_write = os.pipe()
        options = [
            "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={folder}/profile",
        ]
        if os.getuid() == 0:
            options.append("--no-sandbox")
        # The protocol wants descriptors 3 and 4.
        shell = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self.log = open(f"{folder}/chromium.log", "w")
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *options, "about:blank"],
            pass_fds=[to_read, to_write], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            env={**os.environ, "HOME": folder}, start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self.number = 0
        self.events = []
        self.incoming = queue.Queue()
        threading.Thread(target=self._receive, daemon=True).start()
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=VIOLATIONS)

    def _receive(self):
        rest = b""
        while piece := os.read(self.answers, 1 << 16):
            *whole, rest = (rest + piece).split(b"\0")
            for message in whole:
                self.incoming.put(json.loads(message))
        self.incoming.put(None)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.incoming.get(timeout=DEADLINE_S)
            assert answer is not None, "the browser ended"
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, what, condition):
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            seen = self.run(READ)
            # Before the page is there, there is nothing to read.
            if seen and condition(seen):
                return seen
            time.sleep(0.1)
        raise AssertionError(f"not within {DEADLINE_S} s: {what}; the page shows {json.dumps(seen, indent=1)}")

    def look(self, width, height, dark):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        # Sizes and colours follow in the next frames.
        wait = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))"
        self.call("Runtime.evaluate", expression=wait, awaitPromise=True)

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.call("Browser.close")
        self.process.wait(DEADLINE_S)

    def complaints(self):
        found = []
        for event in self.events:
            about = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(about["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(about["args"])
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
        return found


class Statuses:
    """Every status of the relay, by its moment."""

    def __init__(self, base):
        self.base = base
        self.seen = {}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._collect)
        self.thread.start()

    def _collect(self):
        while not self.stopping.wait(0.1):
            try:
                with urllib.request.urlopen(f"{self.base}/status", timeout=2) as answer:
                    status = json.load(answer)
            except OSError:
                # The relay is being held up.
                continue
            self.seen[status["at_us"]] = status

    def of(self, page):
        """The status that the page shows, and the one that it took rates from; None unless both were seen here."""
        now, before = self.seen.get(page["at_us"]), self.seen.get(page["since_us"])
        return (now, before) if now and before else None

    def stop(self):
        self.stopping.set()
        self.thread.join()


UNIT = re.compile(r"^(-?[\d.]+)\s*([kMGTP]?)(bit/s|B|/s|s|ms|µs|%|)$")
FACTOR = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
SCALE = {"%": 0.01, "ms": 1e-3, "µs": 1e-6}


def check(what, text, value):
    """A text says a value if it differs by no more than half of its last digit."""
    plain = text.replace("\u202f", "").replace("\u00a0", " ")
    match = UNIT.match(plain)
    assert match, f"{what}: no number in {text!r}"
    digits, prefix, unit = match.groups()
    factor = FACTOR[prefix] * SCALE.get(unit, 1)
    decimals = len(digits.partition(".")[2])
    allowed = 0.5000001 * 10.0**-decimals * factor
    assert abs(float(digits) * factor - value) <= allowed, f"{what}: the page says {text!r}, /status {value}"
    return 1


def compare(page, now, before):
    fields, tables, totals = page["fields"], page["tables"], now["totals"]
    done = 0
    assert (fields["listen"], fields["version"], fields["probe"]) == (now["listen"], now["version"], now["probe"])
    for name in ["subscribers", "sessions", "rss_bytes", "window_bytes"]:
        done += check(name, fields[name], now[name])
    done += check("channels", fields["channels"], len(now["channels"]))
    done += check("cpu", fields["cpu"], sum(worker["cpu"] for worker in now["workers"]))
    for name in ["received_bytes", "sent_bytes", "sent_datagrams", "zero_copy_bytes", "sessions_granted", "sessions_refused",
                 "chunks_lost", "jobs_skipped", "send_errors", "dropped"]:
        done += check(name, fields[name], totals[name])
    seconds = (now["at_us"] - before["at_us"]) / 1e6
    # The first value below a plot is the time.
    plots = {name: values[1:] for name, values in page["plots"]}
    for name, plot, total in [("in", "In", "received_bytes"), ("out", "Out", "sent_bytes")]:
        rate = 8 * (totals[total] - before["totals"][total]) / seconds
        done += check(name, fields[name], rate) + check(f"{name} in the plot", plots[plot][0], rate)
    done += check("subscribers in the plot", plots["Subscribers"][0], now["subscribers"])
    for text, worker in zip(plots["Processor"], now["workers"], strict=True):
        done += check("a worker in the plot", text, worker["cpu"])
    known = {channel["key"]: channel for channel in before["channels"]}
    for text, name in zip(plots["Loss"], ["shards_lost", "shards_recovered", "shards_repaired"], strict=True):
        grown = sum(channel[name] - known.get(channel["key"], channel)[name] for channel in now["channels"])
        done += check(f"{name} in the plot", text, grown / seconds)
    delays = collections.defaultdict(list)
    for upstream in now.get("upstreams", []):
        if (delay := (upstream["session"] or {}).get("delay_us")) is not None:
            delays[upstream["channel"]].append(delay)
    least = sorted(min(of_channel) for of_channel in delays.values())
    assert bool(least) == ("Delay" in plots), f"{least} {plots}"
    if least:
        done += check("median delay in the plot", plots["Delay"][0], least[len(least) // 2] / 1e6)
        done += check("greatest delay in the plot", plots["Delay"][1], least[-1] / 1e6)
    for name, of in [("quota", now.get("quota")), ("egress", now.get("egress"))]:
        if of and (of.get("max_bytes") or of.get("max_bps")):
            used, _, most = fields[name].partition(" of ")
            done += check(f"{name} used", used, of["used_bytes"] if name == "quota" else of["sent_bps"])
            done += check(f"{name} at most", most, of["max_bytes"] if name == "quota" else of["max_bps"])
    assert len(tables["rates"]) == len(now["rates"]) == 5
    for row, rates in zip(tables["rates"], now["rates"]):
        for text, name in zip(row[1:], ["received_bps", "sent_bps", "received_datagrams_per_s", "sent_datagrams_per_s"]):
            done += check(f"{name} over {row[0]}", text, rates[name])
    assert len(tables["workers"]) == len(now["workers"])
    for row, worker in zip(tables["workers"], now["workers"]):
        for text, name in zip(row[1:], ["cpu", "sessions", "sent_bps"]):
            done += check(f"{name} of worker {row[0]}", text, worker[name])
    assert page["keys"] == [channel["key"] for channel in now["channels"]]
    names = ["subscribers", "upstreams", "received_bps", "sent_bps", None, "shards_received", "shards_lost", "shards_recovered",
             "shards_repaired"]
    for row, channel in zip(tables["channels"], now["channels"]):
        assert channel["key"].startswith(row[0])
        for text, name in zip(row[1:], names, strict=True):
            done += check(f"{name} of {row[0]}", text, channel[name]) if name else 0
        told = delays.get(channel["key"])
        if told:
            done += check(f"delay of {row[0]}", row[5], min(told) / 1e6)
        else:
            assert row[5] == "–", row
    for row, upstream in zip(tables.get("upstreams", []), now.get("upstreams", [])):
        assert row[0] == upstream["name"]
        for text, name, unit in zip(row[5:], ["rtt_us", "delay_us", "spread_us", "shards_received", "shards_lost"],
                                    [1e-6, 1e-6, 1e-6, 1, 1]):
            value = (upstream["session"] or {}).get(name)
            done += check(f"{name} of {row[0]}", text, value * unit) if value is not None else text == "–"
    return done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("chromium")
    parser.add_argument("base")
    parser.add_argument("folder")
    parser.add_argument("--relay-pid", type=int, required=True)
    arguments = parser.parse_args()
    statuses = Statuses(arguments.base)
    browser = Browser(arguments.chromium, arguments.folder)
    try:
        examine(browser, statuses, arguments)
    finally:
        statuses.stop()
        if browser.process.poll() is None:
            os.killpg(browser.process.pid, signal.SIGKILL)


def has_losses(statuses):
    # Of each kind, and not as many of one as of another: one shown for another would be seen.
    kinds = [sum(channel[f"shards_{kind}"] for channel in statuses[0]["channels"]) for kind in ["lost", "recovered", "repaired"]]
    return len({0, *kinds}) == 4


def examine(browser, statuses, arguments):
    browser.look(1280, 900, dark=False)
    browser.call("Page.navigate", url=f"{arguments.base}/")
    moments, numbers = set(), 0
    while len(moments) < 5:
        page = browser.until("another status, with losses, that was seen here too",
                             lambda page: page["at_us"] not in moments and statuses.of(page) and has_losses(statuses.of(page)))
        numbers += compare(page, *statuses.of(page))
        moments.add(page["at_us"])
    assert page["state"] == "healthy" and page["silence"] is None, page
    assert str(len(page["tables"]["channels"])) == page["fields"]["channels"]
    print(f"{numbers} numbers of {len(moments)} moments are those of /status; title: {page['title']}")

    for name, width, height, dark in [("light", 1280, 900, False), ("dark", 1280, 900, True), ("phone", 360, 740, False)]:
        browser.look(width, height, dark)
        overflow = browser.run(READ)["overflow"]
        assert overflow == 0, f"at {width} px the page is {overflow} px too wide"
        browser.picture(f"{arguments.folder}/{name}.png")
    print("as wide as the window at 1280 and 360 px")

    violations = browser.run("violations")
    assert violations == [], violations
    assert browser.complaints() == [], browser.complaints()
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 10, asked
    elsewhere = [url for url in asked if not url.startswith(f"{arguments.base}/")]
    assert elsewhere == [], elsewhere
    print(f"{len(asked)} requests, all to the relay; no violation of the policy and nothing on the console")

    # That there is a policy at all: what a stranger's text could bring in is refused.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\" onclick=\"1\">x</p>')")
    browser.run("document.body.lastChild.click()")
    kinds = {violation.split(":")[0] for violation in browser.run("violations")}
    assert {"style-src-attr", "script-src-attr"} <= kinds, kinds
    browser.run("document.body.lastChild.remove()")

    browser.look(1280, 900, dark=False)
    os.kill(arguments.relay_pid, signal.SIGSTOP)
    try:
        page = browser.until("that the relay does not answer", lambda page: page["state"] == "silent")
        assert "not answered since" in page["silence"] and page["title"].startswith("no answer"), page
        browser.picture(f"{arguments.folder}/silent.png")
    finally:
        os.kill(arguments.relay_pid, signal.SIGCONT)
    browser.until("that it answers again", lambda page: page["state"] == "healthy" and page["silence"] is None)
    print("a relay that is held up is told, and that it is back")
    browser.close()


main()
