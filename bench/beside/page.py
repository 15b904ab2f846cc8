"""A run's tables: on the terminal, and as docs/performance.md."""

from . import goals as targets
from .goals import GIB, MIB, Figures, Missing

# The tables: part, heading, and the cases with their names in words.
COLD = [
    ("hf-oci", "hf-oci, image of one file"),
    ("fused kernel", "fused kernel: four SHA-256, one pass"),
    ("four passes of sha2", "four passes of the sha2 crate"),
    ("CRC-32", "one CRC-32"),
    ("socket read", "one read from a socket"),
    ("write", "one write, fsync"),
    ("plain download", "curl to a file, fsync"),
    ("curl + sha256sum", "curl + sha256sum"),
    ("hf download", "hf download"),
    ("hf-oci, medium", "hf-oci, image of one file"),
    ("oci-modelcar", "oci-modelcar + docker-registry"),
    ("olah", "curl through olah, nothing cached"),
    ("olah, again", "curl through olah, cached"),
    ("ctr-remote", "ctr-remote image convert --estargz"),
]
SMALL = [("hf-oci, small files", "hf-oci"), ("hf download, small files", "hf download, 16 workers")]
SIDES = ("hf-oci", "nginx", "docker-registry")
WARM = [
    ("blob, 1", "whole blob, 1 connection"),
    ("blob, 4", "whole blob, 4 connections"),
    ("ranges", "64 KiB ranges, 16 connections"),
    ("index by tag", "index by tag, 16 connections"),
    ("manifest by digest", "manifest by digest, 16 connections"),
]


def tables(parts):
    """Each table as its title, heads and rows of text."""
    figures = Figures(parts)
    if "cold" in parts:
        heads = ["", "file", "wall s/GiB", "CPU s/GiB", "peak MiB"]
        yield "Cold, one file", heads, [[words, *cells(lambda: cold_row(figures, name), 4)] for name, words in COLD]
        heads = ["", "wall s", "CPU s", "peak MiB"]
        yield "Cold, 2,000 files of 20 KiB", heads, [[words, *cells(lambda: small_row(figures, name), 3)] for name, words in SMALL]
    if "warm" in parts:
        heads = ["", *(column for side in SIDES for column in (side, "CPU", "p99"))]
        rows = [[words, *(cell for side in SIDES for cell in cells(lambda: warm_row(figures, side, case), 3))] for case, words in WARM]
        yield "Warm", heads, rows
    state = [*state_rows(figures, parts)]
    if state:
        yield "Memory and scaling", ["", "wall s", "CPU s", "memory MiB"], state


def cells(row, count):
    """A row's cells, or why there are none."""
    try:
        return row()
    except Missing as missing:
        return [str(missing), *[""] * (count - 1)]


def cold_row(f, name):
    size = f.case("cold", name)["bytes"] / GIB
    return [f"{size:.3g} GiB", f"{f.per_gib(name, 'wall'):.2f}", f"{f.per_gib(name, 'cpu'):.2f}", peak(f, "cold", name)]


def small_row(f, name):
    return [f"{f.median('cold', name, 'wall'):.2f}", f"{f.median('cold', name, 'cpu'):.2f}", peak(f, "cold", name)]


def peak(f, part, name):
    runs = [run.get("peak") for run in f.case(part, name)["runs"]]
    return f"{max(runs) / MIB:.0f}" if all(runs) else ""


def warm_row(f, side, case):
    rate, cost = f.rate(side, case), f.rate(side, case, "cost")
    if case.startswith("blob"):
        return [f"{rate:.2f} GB/s", f"{cost:.2f} s/GB", ""]
    return [f"{rate:,.0f} /s", f"{cost:.0f} µs", f"{f.rate(side, case, 'p99'):.1f} ms"]


def state_rows(f, parts):
    rows = [
        ("memory", "3 models at once", "3 models filled at once"),
        ("memory", "10000 images, idle", "idle, 10,000 cached images"),
        ("scaling", "start-up, 100000 entries", "start-up, 100,000 entries"),
    ]
    for part, name, words in rows:
        if part in parts:
            key = "idle" if "idle" in name else "peak"
            yield [words, *cells(lambda: [*seconds(f, part, name), f"{f.median(part, name, key) / MIB:.0f}"], 3)]
    for name in ("1 GiB", "4 GiB", "16 GiB"):
        if name in parts.get("scaling", {}):
            figures = lambda: [*(f"{f.per_gib(name, key, 'scaling'):.2f}" for key in ("wall", "cpu")), peak(f, "scaling", name)]
            yield [f"one sparse file of {name}, per GiB", *cells(figures, 3)]


def seconds(f, part, name):
    runs = f.case(part, name)["runs"]
    return [f"{f.median(part, name, key):.2f}" if key in runs[0] else "" for key in ("wall", "cpu")]


def goal_table(parts):
    heads = ["what", "goal", "measured", ""]
    return heads, [[goal.what, goal.words, goal.value(), goal.verdict()] for goal in targets.goals(parts)]


def markdown(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def times(count):
    return "1 run" if count == 1 else f"{count} runs"


def page(run, chart):
    """docs/performance.md of a run; `chart` is the name of its drawing."""
    parts, found = run["parts"], targets.goals(run["parts"])
    verdicts = [goal.met() for goal in found]
    missed = verdicts.count(False)
    counted = f"{verdicts.count(True)} of {len(found)} goals met, {missed} not met"
    if None in verdicts:
        counted += f", {verdicts.count(None)} not measured"
    notes = dict.fromkeys(f"* *{goal.words}*: {goal.how}." for goal in found)
    shown = "\n\n".join(f"### {title}\n\n{markdown(heads, rows)}" for title, heads, rows in tables(parts))
    used = "; ".join(f"{name} {version or 'not installed'}" for name, version in run["versions"].items())
    return f"""# Performance

<!-- Written by bench/peers. Do not edit: run it. -->

{run["machine"]}. {times(run["runs"])}, every case in turn; medians. {counted}.

![Chart]({chart})

{markdown(*goal_table(parts))}

How each figure comes about, in the order of the table:

{chr(10).join(notes)}

## All figures

{shown}

CPU is that of the server where there is one, and of the program and its daemon elsewhere. Peak memory is the highest of all runs.

## How it is measured

Everything is on loopback: a simulator of the Hub and its CDN, servers, and clients share the machine's cores. What is read is in the page
cache. hf-oci and the plain download end when the disk has what they wrote; `curl + sha256sum`, `hf download`, oci-modelcar, olah and
ctr-remote do not wait for it. Before each case that
writes, the page cache has had the memory for it. Programs that are slow are measured with smaller files, and their seconds given per GiB: the column "file" says
which. In the warm part no server logs requests, nginx has `sendfile on` and keeps files open, docker-registry keeps descriptors in memory.
The 10,000 and 100,000 images are one image under so many names. The large files of the cold part hold numbers as models do (16 bits each,
normally distributed), which a compressor takes longer for than for random bytes; the others do not care. Those of the memory and scaling
parts are mostly holes. Seconds of `hf download` stand for the first half of `hf download` and `ctr-remote`, at the size given.

{used}.

`bench/peers --help` tells how to run it; [bench/README.md](../bench/README.md), how to read it.
"""
