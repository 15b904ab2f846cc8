"""What bench/peers promises about its goals, on results that are made up."""

from . import chart, goals, page


def results(**changes):
    """Every case with the same seconds and rates; hf-oci's and the others' as told by `changes` (case → key → value)."""
    names = {
        "cold": [name for name, _ in page.COLD + page.SMALL],
        "warm": [f"{side}, {case}" for side in page.SIDES for case, _ in page.WARM],
        "memory": ["3 models at once", "10000 images, idle"],
        "scaling": ["start-up, 100000 entries", "1 GiB", "16 GiB"],
    }
    plain = {"wall": 1.0, "cpu": 1.0, "peak": 1 << 20, "idle": 1 << 20, "rate": 100.0, "cost": 1.0, "p99": 1.0}
    return {
        part: {name: {"bytes": goals.GIB, "runs": [{**plain, **changes.get(name, {})} for _ in range(5)]} for name in cases}
        for part, cases in names.items()
    }


def verdict(parts, words):
    return next(goal for goal in goals.goals(parts) if words in goal.words)


def check(name, holds):
    print(f"{'ok' if holds else 'FAILED'}: {name}")
    return holds


def run():
    """Whether all promises hold."""
    even, slow = results(), results(**{"hf-oci": {"cpu": 5.5, "wall": 1.3}})
    gone = results()
    gone["cold"]["ctr-remote"] = {"note": "not installed: ctr-remote"}
    del gone["warm"]["nginx, ranges"]
    gone["warm"]["nginx"] = {"note": "not installed: nginx"}
    dear = results(write={"cpu": 9.0})
    dear["cold"]["write"]["runs"][3]["cpu"] = 1.0
    told = {"machine": "a machine", "runs": 5, "versions": {"olah": None}, "parts": gone}
    return all(
        [
            check("a fill as dear as one of four parts is a quarter of them", verdict(even, "1.35 ×").measured == 0.25),
            check("a goal that is passed is met", verdict(even, "1.35 ×").met() is True),
            check("a goal that is missed is not met", verdict(slow, "1.35 ×").met() is False),
            check("a bound itself is met", verdict(even, "at least 1.0 × nginx").met() is True),
            check("what is not installed has no figure", verdict(gone, "ctr-remote").measured is None),
            check("what is not installed is named", verdict(gone, "ctr-remote").value() == "not installed: ctr-remote"),
            check("a server that is not there has no figure in any case", verdict(gone, "0.9 × nginx").value() == "not installed: nginx"),
            check("a part that was not run is named", verdict({}, "p99").value() == "`warm` was not run"),
            check("of writing the least counts", verdict(dear, "1.35 ×").measured == 0.25),
            check("the page names what is not installed", "olah not installed" in page.page(told, "chart.svg")),
            check("the chart draws what is there", chart.svg(told).count("<rect") > 10),
        ]
    )
