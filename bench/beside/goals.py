"""What hf-oci is meant to reach, and whether a run reached it: computed from that run alone."""

import dataclasses

import measure

GIB, MIB = 1 << 30, 1 << 20
LIMITS = ("fused kernel", "CRC-32", "socket read", "write")


@dataclasses.dataclass
class Goal:
    """`measured` is a number, or None with the reason in `why`."""

    what: str
    words: str
    measured: float | None
    bound: float
    at_most: bool
    unit: str
    how: str
    why: str = ""

    def met(self):
        if self.measured is None:
            return None
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def value(self):
        return self.why if self.measured is None else number(self.measured, self.unit)

    def verdict(self):
        return {True: "met", False: "**not met**", None: "–"}[self.met()]


def number(value, unit):
    if unit == "×":
        return f"{value:.0f} ×" if value >= 100 else f"{value:.1f} ×" if value >= 10 else f"{value:.2f} ×"
    if unit == "%":
        return f"{value:.1f} %"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


class Missing(Exception):
    """Something that a figure needs was not measured; the message says why."""


class Figures:
    """Medians of a run's results."""

    def __init__(self, parts):
        self.parts = parts

    def case(self, part, name):
        if part not in self.parts:
            raise Missing(f"`{part}` was not run")
        cases = self.parts[part]
        if name not in cases:
            # A server that is not there has one note for all its cases.
            name = name.partition(",")[0]
        case = cases.get(name, {"note": "not measured"})
        if "note" in case:
            raise Missing(case["note"])
        return case

    def median(self, part, name, key):
        return measure.median([run[key] for run in self.case(part, name)["runs"]])

    def per_gib(self, name, key, part="cold"):
        return self.median(part, name, key) / self.case(part, name)["bytes"] * GIB

    def rate(self, side, case, key="rate"):
        return self.median("warm", f"{side}, {case}", key)

    def limits(self, *names):
        """CPU seconds per GiB of the parts of the work together. Of writing it is the least of all runs: where the host of a virtual
        machine has to fetch fresh pages, it takes several times as long, and the sum must not hide what hf-oci takes."""
        return sum(self.least(name) if name == "write" else self.per_gib(name, "cpu") for name in names)

    def least(self, name):
        case = self.case("cold", name)
        return min(run["cpu"] for run in case["runs"]) / case["bytes"] * GIB


def cold(f):
    server = "CPU seconds of the server per GiB"
    yield server, "at most 1.35 × kernel + CRC + read + write", 1.35, True, "×", lambda: f.per_gib("hf-oci", "cpu") / f.limits(*LIMITS), (
        "hf-oci's CPU seconds over the sum of those of the fused kernel, one CRC-32, one read from a socket and one write, each alone; of the write the "
        "least of all runs"
    )
    passes = ("four passes of sha2", *LIMITS[1:])
    yield server, "at most 0.65 × four passes of sha2 + the rest", 0.65, True, "×", lambda: f.per_gib("hf-oci", "cpu") / f.limits(*passes), (
        "the same over the sum with four passes of the sha2 crate instead of the fused kernel"
    )
    wall = "wall time"
    slower = lambda: max(f.per_gib(name, "wall") for name in ("plain download", "fused kernel"))
    yield wall, "at most 1.25 × the slower of download and kernel", 1.25, True, "×", lambda: f.per_gib("hf-oci", "wall") / slower(), (
        "hf-oci's seconds over the larger of those of curl to a file on the disk (fsync, as hf-oci's) and of the fused kernel alone"
    )
    convert = lambda: f.per_gib("hf download", "wall") + f.per_gib("ctr-remote", "wall")
    yield wall, "30 × faster than hf download + ctr-remote", 30, False, "×", lambda: convert() / f.per_gib("hf-oci", "wall"), (
        "seconds per GiB of `hf download` and of `ctr-remote image convert --estargz` with its defaults, together, over hf-oci's; "
        "making an image for ctr-remote from the download is not counted"
    )
    yield wall, "4 × faster than oci-modelcar", 4, False, "×", lambda: f.per_gib("oci-modelcar", "wall") / f.per_gib("hf-oci, medium", "wall"), (
        "`oci-modelcar push` into an empty docker-registry on the same machine, over hf-oci, with the same file"
    )
    small = lambda: f.median("cold", "hf-oci, small files", "wall") / f.median("cold", "hf download, small files", "wall")
    yield "2,000 files of 20 KiB, wall time", "at most 1.5 × hf download", 1.5, True, "×", small, "hf-oci over `hf download --max-workers 16`"


def warm(f):
    for connections in (1, 4):
        case = f"blob, {connections}"
        ratio = lambda case=case: f.rate("hf-oci", case) / f.rate("nginx", case)
        yield f"GET of a blob, {connections} connection{'s'[: connections - 1]}", "at least 1.0 × nginx", 1.0, False, "×", ratio, "bytes a second over nginx's"
    for side, bound in (("nginx", 0.9), ("docker-registry", 25)):
        ratio = lambda side=side: f.rate("hf-oci", "ranges") / f.rate(side, "ranges")
        yield "64 KiB ranges, 16 connections", f"at least {bound} × {side}", bound, False, "×", ratio, f"requests a second over {side}'s"
    documents = ("index by tag", "manifest by digest")
    for side, bound in (("nginx", 0.6), ("docker-registry", 25)):
        ratio = lambda side=side: min(f.rate("hf-oci", case) / f.rate(side, case) for case in documents)
        yield "manifests, 16 connections", f"at least {bound} × {side}", bound, False, "×", ratio, (
            f"requests a second over {side}'s; the lower of index by tag and manifest by digest"
        )
    late = lambda: max(f.rate("hf-oci", case, "p99") for case in documents)
    yield "manifests, 16 connections", "p99 under 3 ms", 3, True, "ms", late, "the higher of the same two, as wrk sees it on the same cores"


def state(f):
    three = lambda: f.median("memory", "3 models at once", "peak") / MIB
    yield "memory", "256 MiB while filling 3 models at once", 256, True, "MiB", three, "the server's peak (VmHWM)"
    idle = lambda: f.median("memory", "10000 images, idle", "idle") / MIB
    yield "memory", "64 MiB when idle with 10,000 cached images", 64, True, "MiB", idle, (
        "resident memory (VmRSS) two seconds after indexes of 1,000 different images were asked for"
    )

    def growth():
        one, many = (f.per_gib(name, "cpu", "scaling") for name in ("1 GiB", "16 GiB"))
        return (many / one - 1) * 100

    yield "scaling", "a GiB at 16 GiB costs at most 5 % more than at 1 GiB", 5, True, "%", growth, "CPU seconds of the server per GiB; less is negative"
    start = lambda: f.median("scaling", "start-up, 100000 entries", "wall")
    yield "scaling", "start-up with 100,000 entries under 1 s", 1, True, "s", start, "from the start of the process to its first answer, the index of the last image"


def goals(parts):
    """All goals, in order."""
    figures, found = Figures(parts), []
    for group, name in ((cold, "cold: "), (warm, "warm: "), (state, "")):
        for what, words, bound, at_most, unit, value, how in group(figures):
            try:
                measured, why = value(), ""
            except Missing as missing:
                measured, why = None, str(missing)
            found.append(Goal(name + what, words, measured, bound, at_most, unit, how, why))
    return found
