"""Phase `kernels`: every distinct operation of Stable Diffusion 1.x at 512 x 512 beside what PyTorch's libraries take for it."""

import math
import statistics
import sys
import time
from pathlib import Path

from sides import Failed, Side, take_turns

# Launches in one recorded graph, so that starting and waiting, some ten microseconds, is shared by as many.
COPIES = 20
SECONDS_PER_CASE = 60
# FLOPs in the time of a byte, roughly, on any GPU of these generations: to order cases by the time they should take.
RIDGE = 180
# Of more than one image, how many of the UNet's operations are timed.
LARGEST = 20
CEILINGS = {
    "copy": "copy through memory",
    "cached copy": "copy that stays in the cache",
    "matmul": "8192^3 product of halves",
    "matmul of bf16": "8192^3 product of bf16",
    "nothing": "recorded graph of one tiny kernel, call to end",
    "ramp": "a launch of nothing, of 1000 in a recorded graph",
    "dependent ramp": "the same, each begun before the one ahead has ended",
}
# The fastest that our kernels have, wgmma on a Hopper GPU, and mma.sync, which is all that another has.
RATE, PORTABLE = "our products alone (mma.sync, or wgmma)", "our products alone, by mma.sync"

# The ways that an operation of ours is compared with. Everything else moves memory, and is compared with a copy of as many bytes.
WAYS = {
    "linear": ["cublas"],
    "conv2d": ["cudnn"],
    "attention": ["flash", "cudnn", "efficient"],
    "group_norm": ["copy", "eager", "triton"],
    "layer_norm": ["copy", "eager"],
}


def run(binaries: Path, device: str, out: Path, deadline: float, sampler, brief: bool, batches: list[int]) -> dict:
    """The rows, most work first, as far as the time goes; what was left out is counted."""
    here = Path(__file__).resolve().parent
    copies, rounds, times = (2, 1, 1) if brief else (COPIES, 5, 10)
    ours = Side("ldm", [binaries / "turns", device], out / "kernels-ldm.log")
    torch_device = "cuda" if device == "cuda" else "cpu"
    theirs = Side("PyTorch", [sys.executable, "-W", "ignore", here / "peer.py", torch_device, out], out / "kernels-torch.log")
    rows, failed, limits = [], [], {}
    try:
        # In a dry run too, which times none of them.
        unequal = theirs.ask({"products": listed(ours, "sd1", 2)}, SECONDS_PER_CASE)["unequal"]
        limits = ceilings(theirs, sampler) | rate(ours, 2 if brief else 4096, sampler)
        # Numbers of two bytes that together are twice the cache.
        flush = 256 if brief else theirs.ask({"cache": True}, SECONDS_PER_CASE)["bytes"]
        order = one_of_each(listed(ours, "awkward", 1)) if brief else [case for batch in batches for case in chosen(ours, batch)]
        for case in order:
            if time.monotonic() > deadline - SECONDS_PER_CASE / 2:
                break
            row = {key: case[key] for key in ("name", "op", "count", "flops", "bytes", "samples")} | {"rows": pixels(case)}
            try:
                ours.clear(), theirs.clear()
                runners, flushing, refused = prepared(ours, theirs, case, copies, flush)
                found = take_turns(runners, rounds, times, sampler)
                if flushing:
                    row["flushed"] = without_flush(take_turns(flushing, rounds, times, sampler), copies)
            except Failed as problem:
                failed.append({"name": case["name"], "problem": str(problem)})
                print(f"  FAIL {case['name']}: {problem}", flush=True)
                continue
            row |= {"refused": refused} if refused else {}
            row["clocks"] = found.pop("clocks")
            row["seconds"] = {name: {k: v / copies if k != "runs" else v for k, v in times.items()} for name, times in found.items()}
            rows.append(finish(row))
            print(line(row), flush=True)
    finally:
        ours.stop(), theirs.stop()
    left_out = len(order) - len(rows) - len(failed)
    failed += unequal
    return {"ceilings": limits, "rows": rows, "failed": failed, "left_out": left_out, "copies": copies, "flush": 2 * flush, "classes": classes(rows),
            "figures": figures(rows, limits), "passed": not failed}


def listed(ours: Side, which: str, samples: int) -> list[dict]:
    """The cases of a list, most work first."""
    cases = ours.ask({"list": which, "batch": samples}, 120)["cases"]
    return sorted((case | {"set": which, "samples": samples} for case in cases), key=lambda case: -case["count"] * max(case["flops"] / RIDGE, case["bytes"]))


def chosen(ours: Side, batch: int) -> list[dict]:
    """Of one image with guidance every operation of UNet and decoder, of more the UNet's that take longest."""
    cases = listed(ours, "sd1", 2 * batch)
    return cases if batch == 1 else [case for case in cases if ": unet" in case["name"]][:LARGEST]


def prepared(ours: Side, theirs: Side, case: dict, copies: int, flush: int) -> tuple[dict, dict, dict]:
    """The runners of a case by the name of their way: with operands as a network leaves them, and with the cache flushed; and the ways that are
    refused."""
    work = {"work": "op", "set": case["set"], "batch": case["samples"], "index": case["index"], "copies": copies}
    ready = lambda side, work: (side, side.prepare(work, SECONDS_PER_CASE)["number"])
    warm, cold, refused = {"ldm": ready(ours, work)}, {}, {}
    if flush:
        alone = {"work": "flush", "flush": flush, "copies": copies}
        cold = {"ldm": ready(ours, work | {"flush": flush}), "ldm's flush": ready(ours, alone), "flush": ready(theirs, alone)}
    for way in WAYS.get(case["op"], ["copy"]):
        work = {"work": "op", "case": case, "way": way, "copies": copies}
        try:
            warm[way] = ready(theirs, work)
            if flush:
                cold[way] = ready(theirs, work | {"flush": flush})
        except Failed as problem:
            refused[way] = str(problem)
    return warm, cold, refused


def without_flush(found: dict, copies: int) -> dict:
    """Seconds of one run of each way, what its side takes to flush subtracted."""
    medians = {name: times["median"] for name, times in found.items() if name != "clocks"}
    alone = {"ldm": medians.pop("ldm's flush")}
    rest = medians.pop("flush")
    return {name: (median - alone.get(name, rest)) / copies for name, median in medians.items()}


def ceilings(theirs: Side, sampler) -> dict:
    """What the device can do at best, through PyTorch and Triton. One that is refused is left out; its process may not be sound any more."""
    found = {}
    for which, title in CEILINGS.items():
        begin = time.monotonic()
        try:
            answer = theirs.ask({"ceiling": which}, SECONDS_PER_CASE)
        except Failed as problem:
            print(f"  {title}: {problem}", flush=True)
            found[title] = {"problem": str(problem)}
            theirs.stop()
            continue
        found[title] = limit(title, statistics.median(answer["seconds"]), answer) | {"clocks": sampler.during(begin)}
    return found


def rate(ours: Side, rounds: int, sampler) -> dict:
    """What our kinds of instructions do with operands that are there already."""
    found = {}
    for title, portable in [(RATE, False), (PORTABLE, True)]:
        ready, begin = ours.prepare({"work": "rate", "rounds": rounds, "portable": portable}, SECONDS_PER_CASE), time.monotonic()
        ours.run(ready["number"], 3)
        median = statistics.median(ours.run(ready["number"], 20 if rounds > 2 else 1))
        found[title] = limit(title, median, ready) | {"clocks": sampler.during(begin)}
    return found


def limit(title: str, median: float, amount: dict) -> dict:
    """One ceiling: seconds, of a launch where it is one of launches, and GB/s read and written or TFLOP/s."""
    found = {"seconds": median / amount.get("launches", 1)}
    if amount.get("bytes"):
        found["gbs"] = amount["bytes"] / median / 1e9
    if amount.get("flops"):
        found["tflops"] = amount["flops"] / median / 1e12
    print(f"  {title}: " + ", ".join(f"{value:.4g} {key}" for key, value in found.items()), flush=True)
    return found


def one_of_each(cases: list[dict]) -> list[dict]:
    """The smallest case of each operation: enough to try the script out."""
    smallest = {}
    for case in sorted(cases, key=lambda case: case["bytes"]):
        smallest.setdefault(case["op"], case)
    return list(smallest.values())


def finish(row: dict) -> dict:
    """The best of PyTorch's ways, and the ratio to it: below 1 ours is faster."""
    ours = row["seconds"]["ldm"]["median"]
    others = {way: times["median"] for way, times in row["seconds"].items() if way != "ldm"}
    row["tflops"], row["gbs"] = row["flops"] / ours / 1e12, row["bytes"] / ours / 1e9
    if others:
        # A copy is a bound for what only moves memory, and never beaten by a library.
        row["best"] = "copy" if "copy" in others else min(others, key=others.get)
        row["ratio"] = ours / others[row["best"]]
    return row


def line(row: dict) -> str:
    ours = row["seconds"]["ldm"]["median"] * 1e6
    best = row["seconds"][row["best"]]["median"] * 1e6 if "best" in row else float("nan")
    clock = row["clocks"].get("sm_mhz", 0)
    return (f"  {row['count']:>3} x {ours:>9.2f} us {row['tflops']:>7.1f} TFLOP/s {row['gbs']:>7.0f} GB/s  {row.get('best', '-'):<9} {best:>9.2f} us "
            f"{row.get('ratio', float('nan')):>6.2f}  {clock:>5.0f} MHz  {row['name']}")


def pixels(case: dict) -> int:
    """Rows of the first operand: images times pixels or tokens."""
    return math.prod(case["operands"][0]["shape"][:-1]) if case["operands"] else 0


def kind(row: dict) -> str:
    """The operation; a transformer's second attention looks at the text."""
    return "attention to text" if row["op"] == "attention" and ".attn2" in row["name"] else row["op"]


def classes(rows: list[dict]) -> list[dict]:
    """Per kind of operation and number of samples: time in a network call, ours and of PyTorch's best."""
    found = []
    for samples, op in sorted({(row["samples"], kind(row)) for row in rows}):
        members = [row for row in rows if kind(row) == op and row["samples"] == samples and "best" in row]
        ours = sum(row["count"] * row["seconds"]["ldm"]["median"] for row in members)
        theirs = sum(row["count"] * row["seconds"][row["best"]]["median"] for row in members)
        if members:
            found.append({"op": op, "samples": samples, "calls": sum(row["count"] for row in members), "ours_ms": ours * 1e3, "theirs_ms": theirs * 1e3,
                          "ratio": ours / theirs, "median_ratio": statistics.median(row["ratio"] for row in members)})
    return found


def figures(rows: list[dict], limits: dict) -> list[dict]:
    """What the project asks of kernels on an H200, and what was reached with 2 samples; each over all calls, by time."""
    found, rows = [], [row for row in rows if row["samples"] == 2]
    ours = lambda of: sum(row["count"] * row["seconds"]["ldm"]["median"] for row in of)
    best = lambda of: sum(row["count"] * row["seconds"][row["best"]]["median"] for row in of)
    norms = [row for row in rows if row["op"] == "group_norm" and row.get("best") == "copy"]
    if norms:
        found.append({"figure": "GroupNorm and SiLU, of the rate of a copy", "asked": 0.8, "reached": best(norms) / ours(norms)})
    for op, asked, wanted in [("linear", 0.95, ""), ("conv2d", 0.95, ""), ("attention", 1.2, "[2, 4096, 320]")]:
        members = [row for row in rows if row["op"] == op and "best" in row and wanted in row["name"]]
        if members:
            figure = f"{op}{' ' + wanted if wanted else ''}: the library's time over ours"
            found.append({"figure": figure, "asked": asked, "reached": best(members) / ours(members)})
    # Pixels of the 64 x 64 level for two samples.
    products = [row for row in rows if row["op"] == "linear" and row["rows"] == 2 * 64 * 64]
    if products and "tflops" in limits.get(RATE, {}):
        reached = sum(row["count"] * row["flops"] for row in products) / ours(products) / 1e12 / limits[RATE]["tflops"]
        found.append({"figure": "linear maps at 64 x 64, of our products alone", "asked": 0.9, "reached": reached})
    return found
