"""Phase `bench`: what `ldm` itself measures. It tunes the tiles of Stable Diffusion 1.x for this GPU, then times the networks without the table and
with it, on a Hopper GPU also by the kernels that every GPU runs, in turns, each beside the measured ceilings of these kernels, and draws a trace of a
step; and what `ldm plan` says of memory and launches, beside what is taken."""

import json
import statistics
import subprocess
import time
from pathlib import Path

from floors import operations
from machine import tiers

MODEL = "synthetic:sd1"
# Turns of the two sides, and runs of each: the command itself answers with the fastest.
ROUNDS, REPEAT = 5, 20
# How long the device is watched before a run.
IDLE_SECONDS = 1


class Ended(Exception):
    """A command that failed; the text says which and why."""


def command(binaries: Path, arguments: list, left: float) -> str:
    """What `ldm` prints."""
    words = [str(binaries / "ldm"), *map(str, arguments)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(left, 1))
    except subprocess.TimeoutExpired:
        raise Ended(f"ldm {arguments[0]} was not done within {left:.0f} s") from None
    if done.returncode:
        raise Ended(f"ldm {arguments[0]} ended with {done.returncode}: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return done.stdout


def run(binaries: Path, device: str, out: Path, deadline: float, sampler, brief: bool) -> dict:
    network = [] if brief else ["-m", MODEL]
    kernels = tiers(device)
    model = kernels["all"] + network
    # The demo's networks take next to nothing: what a run of it has in use is the driver's.
    models = [[]] if brief else [[], network]
    rounds, repeat = (1, 1) if brief else (ROUNDS, REPEAT)
    left = lambda: deadline - time.monotonic()
    table, usual = out / "tuned.txt", out / "untuned.txt"
    try:
        command(binaries, ["tune", "--what", "step", "-o", table, *model], left())
        command(binaries, ["bench", "--what", "step", "--repeat", repeat, "--trace", out / "trace.json", *model], left())
        # A table without tiles, so that one which lies where `ldm` looks for it is not taken.
        usual.write_text("".join(line + "\n" for line in table.read_text().splitlines()[:2]))
        rows = []
        for what in ["step"] if brief else ["step", "unguided", "decode"]:
            line = ["bench", "--json", "--what", what, "--repeat", repeat]
            sides = {"model of time": [*model, "--tuned", usual], "tuned": [*model, "--tuned", table]}
            # No table is of these.
            sides |= {"portable kernels": kernels["portable"] + network} if "portable" in kernels else {}
            begin = time.monotonic()
            answers = {side: [] for side in sides}
            for _ in range(rounds):
                for side, options in sides.items():
                    answers[side].append(json.loads(command(binaries, [*line, *options], left())))
            rows += [row(what, which, found) | {"clocks": sampler.during(begin)} for which, found in answers.items()]
        planned = [plan(binaries, [*kernels["all"], *which, "--steps", 1 if brief else 4], out, sampler, left) for which in models]
    except (Ended, OSError, ValueError) as problem:
        return {"problem": str(problem), "passed": False}
    for found in rows:
        print(f"  {found['network']:<8} {found['tiles']:<14} {1e3 * found['median']:>9.3f} ms", flush=True)
    other = sum(1 for line in table.read_text().splitlines()[2:] if line.strip())
    return {"rows": rows, "launches": launches(out / "trace.json"), "planned": planned, "tiles": other, "passed": True}


def floor(answer: dict) -> float | None:
    """Seconds of a run if every operation were at the ceiling that bounds it."""
    if not answer["peak_gflops"]:
        return None
    return operations(answer["networks"][0]["nodes"], {"flops": 1e9 * answer["peak_gflops"], "bytes": 1e9 * answer["peak_gbs"]})


def flop_floor(answer: dict) -> float | None:
    """Seconds of a run's FLOPs alone."""
    return answer["networks"][0]["flops"] / answer["peak_gflops"] / 1e9 if answer["peak_gflops"] else None


def plan(binaries: Path, settings: list, out: Path, sampler, left) -> dict:
    """What a run is planned to take of memory and launches, and how much more memory of the device is in use while it lasts, the driver's own with it."""
    said = json.loads(command(binaries, ["plan", "--json", *settings], left()))
    picture = out / "planned.png"
    picture.unlink(missing_ok=True)
    begin = time.monotonic()
    time.sleep(IDLE_SECONDS)
    before, running = sampler.during(begin), time.monotonic()
    command(binaries, ["sample", "-p", "a", "--seed", 1, "--no-metadata", "--no-progress", "-o", picture, *settings], left())
    during = sampler.during(running)
    predicted = {stage["stage"]: (stage["predicted"] or {}).get("launches") for stage in said["stages"]}
    return {"model": said["model"], "planned_mib": said["peak_bytes"] / 2**20, "launches": predicted,
            "used_mib": during["used_mib_max"] - before["used_mib"] if before and during else None}


def launches(trace: Path) -> int:
    """Kernels of a step, those left out that run once for all steps."""
    events = json.loads(trace.read_text())["traceEvents"]
    once = {event["name"] for event in events if event.get("args", {}).get("once")}
    return sum(1 for event in events if event.get("cat") == "kernel" and event["args"]["node"] not in once)


def row(what: str, which: str, answers: list[dict]) -> dict:
    """The median of the turns, and by operation the median of its share of the measured ceilings."""
    networks = [answer["networks"][0] for answer in answers]
    seconds = sorted(network["seconds"] for network in networks)
    operations = {}
    for network in networks:
        for operation in network["operations"]:
            operations.setdefault(operation["name"], []).append(operation)
    shares = {name: statistics.median(found["roofline"] or 0.0 for found in all_found) for name, all_found in operations.items()}
    times = {name: statistics.median(found["seconds"] for found in all_found) for name, all_found in operations.items()}
    first = answers[0]
    return {"network": what, "tiles": which, "median": statistics.median(seconds), "least": seconds[0], "most": seconds[-1],
            "floor": floor(first), "flop_floor": flop_floor(first), "peak_gflops": first["peak_gflops"], "peak_gbs": first["peak_gbs"],
            "seconds": times, "roofline": shares}
