"""Phase `bench`: what `ldm` itself measures. It tunes the tiles of Stable Diffusion 1.x for this GPU, then times the networks without the table and
with it, on a Hopper GPU also by the kernels that every GPU runs, in turns, each beside the measured ceilings of these kernels, and draws a trace of a
step."""

import json
import statistics
import subprocess
import time
from pathlib import Path

from machine import tiers

MODEL = "synthetic:sd1"
# Turns of the two sides, and runs of each: the command itself answers with the fastest.
ROUNDS, REPEAT = 5, 20


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
    except (Ended, OSError, ValueError) as problem:
        return {"problem": str(problem), "passed": False}
    for found in rows:
        print(f"  {found['network']:<8} {found['tiles']:<14} {1e3 * found['median']:>9.3f} ms", flush=True)
    return {"rows": rows, "tiles": sum(1 for line in table.read_text().splitlines()[2:] if line.strip()), "passed": True}


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
    return {"network": what, "tiles": which, "median": statistics.median(seconds), "least": seconds[0], "most": seconds[-1],
            "peak_gflops": answers[0]["peak_gflops"], "peak_gbs": answers[0]["peak_gbs"], "seconds": times, "roofline": shares}
