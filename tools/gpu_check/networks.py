"""Phase `networks`: whole UNet calls, steps, decodes and images of Stable Diffusion 1.x at 512 x 512, beside PyTorch eager and compiled.

Ours does all the work that PyTorch does (`uncut`); beside it, and in the same turns, is ours without what follows from other work.

Both sides open one folder of random weights. Ours is held to PyTorch's f32 on it first: a fast wrong answer is no result.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from sides import Failed, Side, take_turns

# Two roundings of one network to f16 differ by chance; by more than this factor they differ by more.
AS_GOOD = 1.5
# Seconds that are kept for running what got ready.
RESERVE = 90
# What PyTorch's eager mode is also timed of as one CUDA graph: the rest asks the host in between.
RECORDED = ("unet", "decode")
# The names of rows: a call does all its work every time, a step what a sampler's step does.
# Ours as everyone runs it; "ldm" alone leaves out nothing.
CUT = "ldm with cuts"
CALL, STEP = "UNet, {} samples, nothing hoisted", "step with guidance, batch {}"


class Networks:
    def __init__(self, binaries: Path, device: str, out: Path, cache: Path, deadline: float, sampler, brief: bool, modes: list[str]):
        self.binaries, self.device, self.out, self.deadline, self.sampler, self.brief = binaries, device, out, deadline, sampler, brief
        self.model = cache / ("tiny" if brief else "sd1")
        # What was compiled is kept, so that a phase that ran out of time gets further when it is run again.
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
        peer = Path(__file__).resolve().parent / "peer.py"
        self.torch_device = "cuda" if device == "cuda" else "cpu"
        # A process for each mode: one that compiles too long is ended without the other.
        self.theirs = {mode: Side(f"PyTorch {mode}", [sys.executable, "-W", "ignore", peer, self.torch_device, self.model],
                                  out / f"networks-{mode}.log", environment) for mode in modes}
        self.given_up = {}
        self.ours = Side("ldm", [binaries / "turns", device, self.model, "uncut"], out / "networks-ldm.log")
        self.cut = Side(CUT, [binaries / "turns", device, self.model], out / "networks-ldm-with-cuts.log")
        self.rows, self.failed = [], []

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def write_model(self) -> dict:
        """The folder of weights, where it is not there yet, and the census of what PyTorch runs."""
        twin = Path(__file__).resolve().parent / "twin.py"
        words = [sys.executable, "-W", "ignore", str(twin), str(self.model), self.torch_device, *(["tiny"] if self.brief else [])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=max(self.left(), 1))
        if done.returncode:
            raise Failed(f"the model cannot be written: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])

    def errors(self) -> list[dict]:
        """How far ours is from PyTorch's f32, and how far PyTorch's own f16 is.

        Twenty steps of a network of random weights may lead further apart than `ldm parity` lets pass: then PyTorch's f16 is the measure."""
        dumps = self.model / "dumps"
        theirs = self.theirs["eager"].ask({"dump": str(dumps), "steps": 2 if self.brief else 20}, self.left())
        files = sorted(str(path) for path in dumps.glob("*.safetensors"))
        command = [str(self.binaries / "ldm"), "parity", "--device", self.device, "--json", "-m", str(self.model), "--dump", *files]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(self.left(), 1))
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if len(answers) != len(files):
            raise Failed(f"ldm parity ended with {done.returncode}: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
        found = []
        for a in answers:
            half, ours = theirs.get(a["component"]), a["relative_l2"]
            as_good = half is not None and ours is not None and ours <= AS_GOOD * half
            found.append({"component": a["component"], "relative_l2": ours, "max_abs": a["max_abs"], "pass": a["pass"] or as_good,
                          "torch_f16_relative_l2": half})
        return found

    def compare(self, name: str, work: dict, units: int, rounds: int, times: int, flops: float = 0) -> None:
        """Times `work` on both sides, turn by turn; `units` is how many steps, decodes or images one run of it is."""
        row = {"name": name, "units": units, "flops": flops}
        runners = {}
        try:
            for side in (self.ours, self.cut, *self.theirs.values()):
                side.clear()
            for name_of, side in (("ldm", self.ours), (CUT, self.cut)):
                runners[name_of] = side, side.prepare(work, self.left())["number"]
            for mode, side in self.theirs.items():
                if mode == "graph" and work["work"] not in RECORDED:
                    continue
                if mode in self.given_up:
                    row.setdefault("refused", {})[mode] = self.given_up[mode]
                    continue
                try:
                    prepared = side.prepare(work | {"mode": mode}, self.left() - RESERVE)
                    runners[mode] = side, prepared["number"]
                    row.setdefault("prepared_seconds", {})[mode] = prepared["seconds"]
                except Failed as problem:
                    row.setdefault("refused", {})[mode] = str(problem)
                    print(f"  {name}, {mode}: {problem}", flush=True)
                    if side.child is None:
                        self.given_up[mode] = str(problem)
            found = take_turns(runners, rounds, times, self.sampler)
        except Failed as problem:
            self.failed.append({"name": name, "problem": str(problem)})
            print(f"  FAIL {name}: {problem}", flush=True)
            return
        row["clocks"] = found.pop("clocks")
        row["seconds"] = found
        self.rows.append(row)
        print(line(row), flush=True)


def line(row: dict) -> str:
    """Milliseconds and rate of ours, then how many times ours the others' milliseconds are."""
    ours = row["seconds"]["ldm"]["median"]
    others = [f"{mode} {times['median'] * 1e3:.2f} ms ({times['median'] / ours:.2f} x)" for mode, times in row["seconds"].items() if mode != "ldm"]
    tflops = f"{row['flops'] / ours / 1e12:.0f} TFLOP/s, " if row["flops"] else ""
    clock = row["clocks"].get("sm_mhz", 0)
    return (f"  {row['name']:<38} {ours * 1e3:>9.2f} ms  {row['units'] / ours:>7.1f}/s  {tflops}{'; '.join(others) or 'PyTorch was not timed'}  "
            f"{clock:.0f} MHz")


def run(binaries: Path, device: str, out: Path, cache: Path, deadline: float, sampler, brief: bool, batches: list[int], compiled: str) -> dict:
    """`batches`: of which sizes; `compiled`: the mode of torch.compile, or "none"."""
    modes = ["eager", "graph"] + ([] if compiled == "none" else [compiled])
    networks = Networks(binaries, device, out, cache, deadline, sampler, brief, modes)
    answer = {"census": networks.write_model(), "batches": batches, "compiled": compiled}
    rounds, times = (1, 2) if brief else (10, 10)
    flops = answer["census"]["unet"]["flops"]
    try:
        answer["errors"] = networks.errors()
        for batch in batches:
            samples = 2 * batch
            networks.compare(CALL.format(samples), {"work": "unet", "batch": samples}, 1, rounds, times, samples * flops)
            steps = 2 if brief else 20
            networks.compare(STEP.format(batch), {"work": "steps", "batch": batch, "steps": steps}, steps,
                             max(rounds // 2, 1), 1, steps * samples * flops)
        if 1 in batches:
            decoder = answer["census"]["decoder"]["flops"]
            networks.compare("decode", {"work": "decode"}, 1, rounds, times, decoder)
            for steps in [2] if brief else [20, 50]:
                networks.compare(f"image, {steps} steps", {"work": "image", "steps": steps}, 1, max(rounds // 2, 1), 1)
    finally:
        for side in (networks.ours, networks.cut, *networks.theirs.values()):
            side.stop()
    wrong = [error for error in answer["errors"] if not error["pass"]]
    return answer | {"rows": networks.rows, "failed": networks.failed, "figures": figures(networks.rows, compiled),
                     "passed": not networks.failed and not wrong}


def figures(rows: list[dict], compiled: str) -> list[dict]:
    """What the project asks of networks on an H200, and what was reached."""
    asked = {STEP.format(1): (250, 2.0), STEP.format(8): (41, 1.4), CALL.format(2): (None, 2.0), CALL.format(16): (None, 1.4)}
    at_most = {"decode": 4.1, "image, 20 steps": 90}
    found = []
    for row in rows:
        ours, theirs = row["seconds"]["ldm"]["median"], row["seconds"].get(compiled, {}).get("median")
        rate, times = asked.get(row["name"], (None, None))
        if rate:
            found.append({"figure": f"{row['name']}: per second", "asked": rate, "reached": row["units"] / ours})
        if times and theirs:
            found.append({"figure": f"{row['name']}: torch.compile's time over ours", "asked": times, "reached": theirs / ours})
        if row["name"] in at_most:
            found.append({"figure": f"{row['name']}: ms, at most", "asked": at_most[row["name"]], "reached": 1e3 * ours})
    return found
