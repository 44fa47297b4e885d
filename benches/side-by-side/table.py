"""Rounds into medians and ratios."""

from statistics import median

# What is compared.
GBIT = "gbit_per_cpu_s"
DATAGRAMS = "datagrams_per_cpu_s"


def derived(run, job):
    """The figures of one run."""
    datagrams = run["datagrams"]
    asked_gbit = job.subscribers * run.get("channels", 1) * job.bitrate * run["seconds"] * 1e-9
    return {
        "carried": run["gbit"] / asked_gbit,
        "gbps": run["gbit"] / run["seconds"],
        "core": run["cpu_s"] / run["seconds"],
        "waited": run["waited_s"] / run["seconds"],
        GBIT: run["gbit"] / max(run["cpu_s"], 1e-9),
        DATAGRAMS: None if datagrams is None else datagrams / max(run["cpu_s"], 1e-9),
        "delay_p50_ms": run["delay_p50_ms"],
        "delay_p99_ms": run["delay_p99_ms"],
    }


def middle(rounds, figure):
    """The median over those rounds that have it; a round that failed is None."""
    found = [figures[figure] for figures in rounds if figures and figures[figure] is not None]
    return median(found) if found else None


COLUMNS = [
    ("carried", "carried", lambda value: f"{value:.0%}"),
    ("gbps", "Gbit/s", lambda value: f"{value:.2f}"),
    ("core", "of a core", lambda value: f"{value:.1%}"),
    ("waited", "waited", lambda value: f"{value:.1%}"),
    (GBIT, "Gbit / CPU s", lambda value: f"{value:.2f}"),
    (DATAGRAMS, "datagrams / CPU s", lambda value: f"{value:,.0f}"),
    ("delay_p50_ms", "p50 ms", lambda value: f"{value:.1f}"),
    ("delay_p99_ms", "p99 ms", lambda value: f"{value:.1f}"),
]


def medians(found):
    """Lines of a table: programs by columns."""
    head = ["program", *(title for _, title, _ in COLUMNS)]
    rows = [head, ["---"] * len(head)]
    for program, rounds in found.items():
        values = ((middle(rounds, figure), show) for figure, _, show in COLUMNS)
        rows.append([program, *("–" if value is None else show(value) for value, show in values)])
    return aligned(rows)


def ratios(found, ours, rival, figure):
    """Ours by the rival's, round by round, and the middle of those; None without a common round."""
    pairs = [
        (mine[figure], other[figure])
        for mine, other in zip(found.get(ours, []), found.get(rival, []))
        if mine and other and mine[figure] and other[figure]
    ]
    quotients = [mine / other for mine, other in pairs]
    if not quotients:
        return None
    return {"ours": ours, "rival": rival, "figure": figure, "ratio": median(quotients), "rounds": quotients}


def ratio_lines(found):
    """Lines of a table of ratios."""
    rows = [["ours", "to", "of", "ratio", "lowest", "highest"], ["---"] * 6]
    for ratio in found:
        unit = "Gbit / CPU s" if ratio["figure"] == GBIT else "datagrams / CPU s"
        numbers = (ratio["ratio"], min(ratio["rounds"]), max(ratio["rounds"]))
        rows.append([ratio["ours"], ratio["rival"], unit, *(f"{number:.1f}" for number in numbers)])
    return aligned(rows)


CARRIED_MIN = 0.95


def warnings(found):
    """Lines about who did not do the job: an overloaded program also spends time on what it then gives up."""
    for program, rounds in found.items():
        carried, waited = middle(rounds, "carried"), middle(rounds, "waited")
        if carried is not None and carried < CARRIED_MIN:
            yield f"{program} carried only {carried:.0%} of the job; it waited {waited:.0%} of the time for a core."


def aligned(rows):
    """A Markdown table that can be read as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    fill = lambda cell, width: "-" * width if cell == "---" else cell.ljust(width)
    return ["| " + " | ".join(map(fill, row, widths)) + " |" for row in rows]
