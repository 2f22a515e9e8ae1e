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

from floors import measured, operations
from sides import Failed, Side, take_turns

# Two roundings of one network to f16 differ by chance; by more than this factor they differ by more.
AS_GOOD = 1.5
# Seconds that are kept for running what got ready.
RESERVE = 90
# What PyTorch's eager mode is also timed of as one CUDA graph: the rest asks the host in between.
RECORDED = ("unet", "decode", "text")
# Runs before the first that counts, where a run is one call of a network.
WARM = 20
# The names of rows: a call does all its work every time, a step what a sampler's step does.
GUIDANCE = 7.5
# Ours as everyone runs it; "ldm" alone leaves out nothing.
CUT = "ldm with cuts"
CALL, STEP = "UNet, {} samples, nothing hoisted", "step with guidance, batch {}"
JOINED = "{} joined"


class Networks:
    def __init__(self, binaries: Path, device: str, out: Path, cache: Path, deadline: float, sampler, brief: bool, modes: dict[str, list[str]]):
        """`modes`: name to the mode, and what else `peer.py` is told."""
        self.binaries, self.device, self.out, self.deadline, self.sampler, self.brief = binaries, device, out, deadline, sampler, brief
        self.model = cache / ("tiny" if brief else "sd1")
        # What was compiled is kept, so that a phase that ran out of time gets further when it is run again.
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
        peer = Path(__file__).resolve().parent / "peer.py"
        self.torch_device = "cuda" if device == "cuda" else "cpu"
        # A process for each mode: one that compiles too long is ended without the other.
        self.modes = {name: mode for name, (mode, *_) in modes.items()}
        self.theirs = {name: Side(f"PyTorch {name}", [sys.executable, "-W", "ignore", peer, self.torch_device, self.model, *form],
                                  out / f"networks-{name.replace(' ', '-')}.log", environment) for name, (_, *form) in modes.items()}
        # Another whole network to compile: it has a row of its own.
        self.last = [name for name, (_, *form) in modes.items() if "fused" in form]
        self.given_up, self.limits, self.parts = {}, {}, {}
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

    def picture(self) -> dict:
        """How far a picture of ours, from a word and a seed, is from the one that PyTorch draws in f32, and how far its own f16 is."""
        path, seed, steps = self.model / "picture.png", 1, 2 if self.brief else 20
        command = [self.binaries / "ldm", "sample", "--device", self.device, "-m", self.model, "-p", "a", "--seed", seed, "--steps", steps, "--sampler",
                   "ddim", "--cfg-scale", GUIDANCE, "--no-metadata", "--no-progress", "-o", path]
        path.unlink(missing_ok=True)
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=max(self.left(), 1))
        if done.returncode:
            raise Failed(f"ldm sample ended with {done.returncode}: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
        asked = {"picture": str(path), "word": "a", "seed": seed, "steps": steps, "guidance": GUIDANCE}
        return {"steps": steps} | self.theirs["eager"].ask(asked, self.left())

    def bounds(self, samples: int) -> None:
        """What the device can do, and what the networks are made of: once for a number of samples."""
        self.limits = self.limits or measured(self.theirs["eager"], self.left())
        self.parts[samples] = self.ours.ask({"list": "sd1", "batch": samples}, self.left())["cases"]

    def floor(self, network: str, samples: int, times: int) -> float:
        """Seconds of `times` runs of a network of Stable Diffusion, each operation at the best that was measured."""
        return times * operations([case for case in self.parts[samples] if f": {network}" in case["name"]], self.limits)

    def compare(self, name: str, work: dict, units: int, rounds: int, times: int, flops: float = 0, floor: float = 0, modes: tuple = ()) -> None:
        """Times `work` on both sides, turn by turn; `units` is how many steps, decodes or images one run of it is, `floor` the least seconds that its
        operations could take, `modes` PyTorch's, if not all of those that every row has."""
        row = {"name": name, "units": units, "flops": flops, "floor": floor, "flop_floor": flops / self.limits["flops"]}
        chosen = {mode: side for mode, side in self.theirs.items() if (mode in modes if modes else mode not in self.last)}
        runners = {}
        try:
            for side in (self.ours, self.cut, *self.theirs.values()):
                side.clear()
            for name_of, side in (("ldm", self.ours), (CUT, self.cut)):
                runners[name_of] = side, side.prepare(work, self.left())["number"]
            for mode, side in chosen.items():
                if mode in ("graph", "nchw") and work["work"] not in RECORDED:
                    continue
                if mode in self.given_up:
                    row.setdefault("refused", {})[mode] = self.given_up[mode]
                    continue
                try:
                    side.ask({"memory": True}, self.left())
                    prepared = side.prepare(work | {"mode": self.modes[mode]}, self.left() - RESERVE)
                    runners[mode] = side, prepared["number"]
                    if prepared["attention"]:
                        row["attention"] = prepared["attention"]
                    row.setdefault("prepared_seconds", {})[mode] = prepared["seconds"]
                except Failed as problem:
                    row.setdefault("refused", {})[mode] = str(problem)
                    print(f"  {name}, {mode}: {problem}", flush=True)
                    if side.child is None:
                        self.given_up[mode] = str(problem)
            found = take_turns(runners, rounds, times, self.sampler, WARM if work["work"] in RECORDED and not self.brief else 3)
            row["memory"] = {mode: side.ask({"memory": True}, self.left())["bytes"] for mode, side in chosen.items() if mode in runners}
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
    modes = {"eager": ["eager"], "graph": ["graph"], "nchw": ["eager", "nchw"]}
    modes |= {} if compiled == "none" else {compiled: [compiled], JOINED.format(compiled): [compiled, "fused"]}
    networks = Networks(binaries, device, out, cache, deadline, sampler, brief, modes)
    answer = {"census": networks.write_model(), "batches": batches, "compiled": compiled}
    try:
        answer |= {"errors": networks.errors(), "picture": networks.picture()}
        time_all(networks, answer["census"], batches, compiled)
    finally:
        for side in (networks.ours, networks.cut, *networks.theirs.values()):
            side.stop()
    wrong = [error for error in answer["errors"] if not error["pass"]]
    return answer | {"ceilings": networks.limits, "rows": networks.rows, "failed": networks.failed, "figures": figures(networks.rows, compiled),
                     "passed": not networks.failed and not wrong}


def time_all(networks: Networks, census: dict, batches: list[int], compiled: str) -> None:
    """What counts most first, what has to be compiled for one row alone last."""
    rounds, times = (1, 2) if networks.brief else (10, 10)
    flops, few = census["unet"]["flops"], max(rounds // 2, 1)

    def call(samples: int, modes: tuple = ()) -> None:
        work = {"work": "unet", "batch": samples}
        name = CALL.format(samples) + (", joined" if modes else "")
        networks.compare(name, work, 1, rounds, times, samples * flops, networks.floor("unet", samples, 1), modes)

    for samples in sorted({2 * batch for batch in batches} | ({1} if 1 in batches else set())):
        networks.bounds(samples)
    for batch in batches:
        call(2 * batch)
        steps = 2 if networks.brief else 20
        networks.compare(STEP.format(batch), {"work": "steps", "batch": batch, "steps": steps}, steps, few, 1, steps * 2 * batch * flops,
                         networks.floor("unet", 2 * batch, steps))
    if 1 in batches:
        networks.compare("decode", {"work": "decode"}, 1, rounds, times, census["decoder"]["flops"], networks.floor("decoder", 2, 1))
        for steps in [2] if networks.brief else [20, 50]:
            networks.compare(f"image, {steps} steps", {"work": "image", "steps": steps}, 1, few, 1)
        networks.compare("text, 2 prompts", {"work": "text", "batch": 2}, 1, rounds, times, modes=("eager", "graph"))
    if compiled != "none":
        for batch in batches:
            call(2 * batch, (compiled, JOINED.format(compiled)))
    if 1 in batches:
        call(1)


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
