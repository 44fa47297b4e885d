"""Figures into Markdown."""

import live
import virtual
from virtual import LOST, TO_VIEWER, UPLINK

BEGIN, END = "<!-- benches/loss/run writes from here -->", "<!-- to here -->"

# No other figure of real processes has a goal that is not "all of it".
LET_GO_S_MAX = 10
REMADE_LOST_MAX = 1e-5


class Judge:
    """Shows figures beside their goals, and counts those that miss them."""

    def __init__(self):
        self.missed = 0

    def cell(self, text, met, goal):
        self.missed += not met
        return f"{text} [{goal}]" + ("" if met else " **missed**")

    def most(self, value, most, show):
        """A figure that may have a bound."""
        return show(value) if most is None else self.cell(show(value), value <= most, f"≤ {show(most)}".replace(".00", ""))


def report(facts, extent, simulated, processes, remade, seeds, swept):
    """All lines, and how many figures miss their goals."""
    judge = Judge()
    lines = [
        *virtual_rows(judge, simulated, extent),
        "",
        *lossy_rows(judge, processes, extent),
        "",
        *other_rows(judge, processes, remade, seeds, extent),
        "",
        *sweep_rows(swept, extent),
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
    ]
    return lines, judge.missed


def virtual_rows(judge, simulated, extent):
    """Virtual time."""
    yield from head(f"{extent.minutes} minutes of stream on virtual time, 4 viewers", "chunks lost [goal]",
                    "to a viewer beyond the stream [goal]", "uplink beyond the stream [goal]", "`superpeer sim loss …`")
    for row in virtual.ROWS:
        found = simulated[row.name]
        chunks = found["chunks_published"] * found["viewers"]
        lost = f"{found['chunks_lost']} of {chunks:,}"
        most = row.goals[LOST]
        lost = judge.cell(lost, found[LOST] <= most, f"≤ {scientific(most)}" if most else "0")
        to_viewer = judge.most(found[TO_VIEWER], row.goals.get(TO_VIEWER), percent)
        uplink = judge.most(found[UPLINK], row.goals.get(UPLINK), percent)
        yield line(row.name, lost, to_viewer, uplink, f"`{row.options} --minutes {extent.minutes}`")


def lossy_rows(judge, processes, extent):
    """Real processes."""
    yield from head(f"{extent.live_seconds} s of stream, real processes", "chunks lost [goal]", "bytes as published [goal]",
                    "datagrams lost on the way")
    for name in live.LOSSY:
        found = processes[name]
        lost = judge.cell(f"{found['chunks_lost']}", found["chunks_lost"] == 0, "0")
        of = f"{found['datagrams_lost']:,} of {found['datagrams']:,}"
        yield line(name, lost, all_bytes(judge, found), of)


def other_rows(judge, processes, remade, seeds, extent):
    """What is none of both."""
    yield from head("what", "figure [goal]", "how")
    remade_lost = judge.most(remade[0], REMADE_LOST_MAX, scientific)
    command = f"`CHUNKS={extent.chunks} {virtual.REGENERATION}`"
    yield line("chunks lost without repair, k = 32, m = 8, 3 % on each of two hops", remade_lost, command)
    yield line("the same with a relay that only passes on what came", scientific(remade[1]), "the same")
    found = processes[live.KILLED]
    whole = f"{all_bytes(judge, found)}; {found['chunks_lost']} chunks lost"
    yield line(f"{live.KILLED} (SIGKILL): what the viewer wrote", whole, "`killed` in `benches/loss/live.py`")
    found = processes[live.THIN]
    let_go = judge.most(found["let_go_after_s"], LET_GO_S_MAX, lambda seconds: f"{seconds:.1f} s")
    yield line(f"{live.THIN}, a stream of 4: told, and let go after", f"{found['told_after_s']:.1f} s; {let_go}",
               "`thin` in `benches/loss/live.py`")
    yield line("what it says", f"“{found['message']}”", "the same")
    whole = f"{all_bytes(judge, found)}; {found['chunks_lost']} chunks lost"
    yield line("what another viewer of that relay wrote meanwhile", whole, "the same")
    searched = judge.cell(seeds["said"], seeds["status"] == 0, "0 failed")
    yield line("networks of random seeds", searched, f"`superpeer sim --seeds {extent.seeds}`")


SWEEP_LOSSES = [0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.12]


def sweep_rows(swept, extent):
    """Some points of the chart."""
    rtts = sorted({found["rtt_ms"] for found in swept})
    yield from head("loss", "the least possible", *(f"round trip {rtt} ms" for rtt in rtts))
    points = {(found["loss"], found["rtt_ms"]): found for found in swept}
    for loss in SWEEP_LOSSES:
        cells = (f"{percent(found[TO_VIEWER])} ({found['chunks_lost']})" for found in (points[loss, rtt] for rtt in rtts))
        yield line(percent(loss, 0), percent(loss / (1 - loss)), *cells)
    one = swept[0]
    chunks = one["chunks_published"] * one["viewers"]
    yield ""
    yield f"In brackets: chunks lost, of {chunks:,}. `superpeer sim loss {virtual.SWEEP} --minutes {extent.sweep_minutes} --svg loss.svg`"


def all_bytes(judge, found):
    return judge.cell(f"{'all' if found['identical'] else 'not all'} {found['bytes']:,}", found["identical"], "all")


def percent(share, digits=2):
    return f"{share * 100:.{digits}f} %"


def scientific(number):
    return f"{number:.1e}".replace("e-0", "e-") if number else "0"


def head(*cells):
    yield line(*cells)
    yield line(*("---" for _ in cells))


def line(*cells):
    return f"| {' | '.join(cells)} |"


def write(path, lines):
    """Replaces what is between the marks."""
    text = path.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    path.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]))
