"""Times the engine beside PyTorch eager f32, on one machine in one run, and prints the ratios.

    pip install torch==2.11.0 diffusers==0.42.1 transformers==5.23.0 safetensors pillow
    cargo build --release
    python tools/yardstick.py --folder DIR                  # DIR: 2.1 GB, written on the first run
    python tools/yardstick.py --folder DIR --tiny --rounds 1  # a narrow model, to try it out

The model has Stable Diffusion 1's shape at random weights in f16; both sides read the same folder, compute in f32 and use
the same number of threads. Three things are timed: one UNet forward pass, one autoencoder decode, each the fastest of
`--repeat` after a warm-up, and a whole process from start to PNG with `--steps` Euler steps without guidance. `--what
sampling` times a step of unconditional sampling (the network and the sampler's update) of celeba256 at half its width, at
batch 16; its folder lies in DIR and needs no diffusers. The two sides take turns, round after round; medians and their
ratio are printed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent / "yardstick"
ROOT = HERE.parents[1]
BATCH = 16
PROMPT = "a red balloon over snowy mountains at sunset"


@dataclass
class Process:
    """What a process printed and used."""

    output: str
    seconds: float
    peak_mib: float


def run(command: list, threads: int) -> Process:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([str(word) for word in command], stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0), errors.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(map(str, command))} ended with {child.returncode}:\n{errors.read()[-2000:]}")
        return Process(output.read(), seconds, usage.ru_maxrss / 1024)


@dataclass
class Yardstick:
    """The two sides, each measured by `network` or `process`: (ours, theirs)."""

    arguments: argparse.Namespace

    def ldm(self, *words, model: Path | None = None) -> Process:
        threads = self.arguments.threads
        return run([self.arguments.ldm, *words, "--device", "cpu", "--threads", threads, "-m", model or self.arguments.folder], threads)

    def peer(self, *words) -> Process:
        return run([sys.executable, "-W", "ignore", HERE / "peer.py", *words], self.arguments.threads)

    def network(self, what: str) -> tuple[float, float]:
        a = self.arguments
        ours = self.ldm("bench", "--what", what, "--size", f"{a.side}x{a.side}", "--repeat", a.repeat, "--json").output
        theirs = self.peer("time", what, a.folder, a.side, a.repeat).output
        return json.loads(ours)["networks"][0]["seconds"], float(theirs)

    def sampling(self) -> tuple[float, float]:
        a, script, folder = self.arguments, HERE / "unconditional.py", self.arguments.folder / "unconditional"
        if not (folder / "model.safetensors").exists():
            run([sys.executable, script, "write", folder], a.threads)
        ours = self.ldm("bench", "--what", "step", "--batch", BATCH, "--size", "64x64", "--repeat", a.repeat, "--json", model=folder).output
        theirs = run([sys.executable, script, "time", folder, BATCH, 64, a.repeat], a.threads).output
        return json.loads(ours)["networks"][0]["seconds"], float(theirs)

    def process(self) -> tuple[Process, Process]:
        a = self.arguments
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = Path(folder) / "ours.png", Path(folder) / "theirs.png"
            taken = (
                self.ldm("sample", "-p", PROMPT, "--sampler", "euler", "--steps", a.steps, "--cfg-scale", 1, "--seed", 0,
                         "--size", f"{a.side}x{a.side}", "-o", ours),
                self.peer("sample", a.folder, PROMPT, a.steps, a.side, theirs))
            for picture in (ours, theirs):
                if not picture.stat().st_size:
                    sys.exit(f"{picture.name} is empty")
            return taken


def report(name: str, ours: list, theirs: list, unit: str = "s") -> None:
    middle_ours, middle_theirs = statistics.median(ours), statistics.median(theirs)
    print(f"{name:<34} {middle_ours:9.3f} {unit:<3} {middle_theirs:9.3f} {unit:<3} {middle_ours / middle_theirs:6.2f}   "
          f"{min(ours):.3f}-{max(ours):.3f} | {min(theirs):.3f}-{max(theirs):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model's folder, written where it does not exist")
    parser.add_argument("--ldm", type=Path, default=ROOT / "target/release/ldm", help="the engine's binary")
    parser.add_argument("--what", nargs="+", choices=["unet", "decode", "process", "sampling"], default=["unet", "decode", "process"])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--repeat", type=int, default=3, help="forward passes per turn; the fastest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=256, help="pixels of the image's side")
    parser.add_argument("--steps", type=int, default=4, help="Euler steps of the whole process")
    parser.add_argument("--tiny", action="store_true", help="write a narrow model")
    arguments = parser.parse_args()

    if arguments.what != ["sampling"] and not (arguments.folder / "model_index.json").exists():
        print(f"writing {arguments.folder}", file=sys.stderr)
        tiny = ["--tiny"] if arguments.tiny else []
        run([sys.executable, "-W", "ignore", HERE / "model.py", arguments.folder, *tiny], arguments.threads)
    yardstick = Yardstick(arguments)
    side = arguments.side
    print(f"{platform.machine()}, {arguments.threads} threads, {side}x{side} pixels, {arguments.rounds} rounds")
    print(f"{'':<34} {'ldm':>9} {'':<3} {'PyTorch':>9} {'':<3} {'ratio':>6}   spread of ldm | of PyTorch")
    names = {"unet": "UNet, one forward pass", "decode": "autoencoder, one decode"}
    for what in arguments.what:
        if what == "process":
            turns = [yardstick.process() for _ in range(arguments.rounds)]
            report(f"whole process, {arguments.steps} Euler steps", *[[p.seconds for p in side] for side in zip(*turns)])
            report("  its peak memory", *[[p.peak_mib for p in side] for side in zip(*turns)], unit="MiB")
        elif what == "sampling":
            turns = [yardstick.sampling() for _ in range(arguments.rounds)]
            report(f"unconditional step, batch {BATCH}", *zip(*turns))
        else:
            turns = [yardstick.network(what) for _ in range(arguments.rounds)]
            report(names[what], *zip(*turns))


if __name__ == "__main__":
    main()
