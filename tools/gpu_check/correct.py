"""Phase `correct`: is what the kernels compute on this device right, reproducible and free of bad accesses?

On a Hopper GPU everything is asked twice, with all kernels and with those that every GPU runs, by processes of their own: where the first fail, or
end all work of a process, the second still answer."""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from machine import tiers

ROOT = Path(__file__).resolve().parents[2]
PASS, FAIL, SKIPPED = "pass", "FAIL", "skipped"
SANITIZERS = ["memcheck", "racecheck", "synccheck", "initcheck"]
# One case of each kernel that asynchronous copies, barriers or tensor cores make delicate: words of its name.
DELICATE = ["linear: [3, 130, 5]", "linear: [3, 1, 5000]", "conv2d: ", "attention: ", "group_norm: ", "layer_norm: ", "embedding: "]


class Checks:
    """Runs programs and keeps a row for each check: its name, `pass`, `FAIL` or `skipped`, and a line that says more."""

    def __init__(self, binaries: Path, device: str, out: Path, deadline: float, brief: bool):
        self.binaries, self.device, self.out, self.deadline, self.brief = binaries, device, out, deadline, brief
        self.tiers = tiers(device)
        self.rows = []

    def run(self, *command, stdin: str | None = None, most: float = 240) -> tuple[int, str]:
        """Exit code and all output, which is kept in the log too. Ends with 124 after so many seconds, as a kernel may never end, or at the
        phase's deadline."""
        left = min(most, self.deadline - time.monotonic())
        if left <= 0:
            return 124, "the phase's time was up"
        words = [str(word) for word in command]
        try:
            done = subprocess.run(words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=left)
            code, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as late:
            code, output = 124, (late.output or b"").decode(errors="replace") + f"\nstopped after {left:.0f} s"
        except OSError as problem:
            code, output = 127, str(problem)
        with (self.out / "correct.log").open("a") as log:
            log.write(f"$ {' '.join(words)}\n{output}\n[{code}]\n\n")
        return code, output

    def row(self, check: str, result: str, detail: str) -> None:
        self.rows.append({"check": check, "result": result, "detail": detail.strip()[:160]})
        print(f"  {result:<8} {check}: {detail.strip()[:160]}", flush=True)

    def tests(self, check: str, binary: str, *arguments, most: float = 240) -> bool:
        """Whether the tests of a test binary pass, of which at least one must run."""
        code, output = self.run(self.binaries / binary, *arguments, most=most)
        counts = re.search(r"(\d+) passed; (\d+) failed", output)
        passed, failed = map(int, counts.groups()) if counts else (0, 0)
        if code == 0 and passed and not failed:
            self.row(check, PASS, f"{passed} tests")
            return True
        # A test's own words stand below the line that says where it panicked.
        said = re.findall(r"panicked at .*\n(.*)", output) or output.strip().splitlines() or ["no output"]
        self.row(check, FAIL, f"exit {code}, {passed} passed, {failed} failed: {said[0]}")
        return False

    def primitives(self) -> None:
        if self.device != "cuda":
            self.tests("primitives, emulated", "primitives")
        elif not self.tests("primitives, bit for bit as emulated", "primitives", "--include-ignored", "--test-threads", "1", most=90):
            # One that faults or never ends takes those behind it along, so each is asked alone.
            _, output = self.run(self.binaries / "primitives", "--list", "--ignored")
            for name in re.findall(r"^(\S+): test$", output, re.M):
                self.tests(name, "primitives", "--ignored", "--exact", name, most=20)

    def start(self) -> None:
        """What every command checks at its start."""
        code, output = self.run(self.binaries / "ldm", "devices", "--device", self.device, most=60)
        good = code == 0 and "warning" not in output
        self.row("the check at the start", PASS if good else FAIL, " ".join(output.split()) if good or output else f"exit {code}")

    def operations(self) -> None:
        """Every awkward case against its definition in f64, again, alone and in a batch, with NaN, of every weight precision, random shapes."""
        if self.brief:
            return self.tests("operations (brief)", "ops", "names_tell_cases_apart")
        modules = {"all": "gpu::", "portable": "gpu_portable::"}
        for tier in self.tiers:
            self.tests(f"operations in f16, {tier} kernels", "ops", "--ignored", modules[tier], most=600)
        self.tests("operations in f32", "ops", "--ignored", "gpu_f32::", most=600)

    def parity(self) -> None:
        for tier in self.tiers:
            self.parity_of(tier)

    def parity_of(self, tier: str) -> None:
        data = ROOT / "tests/data/parity"
        if not data.is_dir():
            return self.row("parity dumps", FAIL, f"{data} is not there: it goes with `tools`, as `assets` does")
        folders = [data / "text_alone"] if self.brief else sorted(folder for folder in data.iterdir() if folder.is_dir())
        worst, failed, compared = 0.0, [], 0
        for folder in folders:
            # The embedded models are in the assets.
            model = ROOT / "assets" / folder.name if folder.name in ("demo", "inpaint") else folder / "model"
            dumps = sorted(folder.glob("*.safetensors"))
            code, output = self.run(self.binaries / "ldm", "parity", *self.tiers[tier], "--json", "-m", model, "--dump", *dumps)
            lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            compared += len(lines)
            worst = max([worst, *(line["relative_l2"] or 0.0 for line in lines if line["component"] != "sampler")])
            failed += [f"{folder.name} {line['component']} {line['relative_l2']}" for line in lines if not line["pass"]]
            if code and not any(not line["pass"] for line in lines):
                failed.append(f"{folder.name}: exit {code}: {output.strip().splitlines()[-1]}")
        detail = f"{compared} outputs against PyTorch, relative L2 of a network at most {worst:.1e}"
        self.row(f"parity dumps, {tier} kernels", FAIL if failed or not compared else PASS, "; ".join(failed) or detail)

    def pictures(self) -> None:
        for tier in self.tiers:
            self.pictures_of(tier)

    def pictures_of(self, tier: str) -> None:
        """The demo: each picture of a batch is byte for byte what it is alone, and again."""
        steps, batch = ("1", 2) if self.brief else ("20", 4)
        with tempfile.TemporaryDirectory() as folder:
            def draw(name: str, seed: int, count: int) -> list[str]:
                pattern = Path(folder) / f"{name}-{{index:05}}.png"
                code, output = self.run(self.binaries / "ldm", "sample", *self.tiers[tier], "-p", "a red balloon", "-s", seed, "--steps",
                                        steps, "--batch-size", count, "--no-metadata", "--no-progress", "-o", pattern)
                files = sorted(Path(folder).glob(f"{name}-*.png"))
                if code or len(files) != count:
                    raise ValueError(f"exit {code}, {len(files)} of {count} pictures: {(output.strip().splitlines() or ['no output'])[-1]}")
                return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

            try:
                together, again = draw("together", 7, batch), draw("again", 7, batch)
                alone = [draw(f"alone{index}", 7 + index, 1)[0] for index in range(batch)]
            except ValueError as problem:
                return self.row(f"pictures, {tier} kernels", FAIL, str(problem))
        for check, other in [("the same pictures again", again), ("the same pictures alone and in a batch", alone)]:
            same = sum(a == b for a, b in zip(together, other))
            self.row(f"{check}, {tier} kernels", PASS if same == batch else FAIL, f"{same} of {batch}, sha256 {together[0][:16]}...")
        if len(set(together)) != batch:
            self.row(f"pictures of different seeds differ, {tier} kernels", FAIL, f"{len(set(together))} of {batch} are different")

    def sanitizers(self) -> None:
        tool = shutil.which("compute-sanitizer") or next(iter(map(str, Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))), None)
        if self.device != "cuda" or tool is None:
            return self.row("compute-sanitizer", SKIPPED, "no GPU" if tool else "it is not installed here")
        cases = [index for index, case in self.awkward() if any(case["name"].startswith(word) for word in DELICATE)]
        chosen = cases[:: max(1, len(cases) // 24)]
        lines = [{"prepare": {"work": "op", "set": "awkward", "index": index, "copies": 1}} for index in chosen]
        asked = "".join(json.dumps(line) + "\n" for line in lines)
        for name in SANITIZERS:
            code, output = self.run(tool, "--tool", name, "--error-exitcode", "9", self.binaries / "turns", self.device, stdin=asked)
            if "not supported" in output or "Unable to" in output:
                self.row(f"compute-sanitizer {name}", SKIPPED, "it does not work on this machine")
                continue
            answers = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            refused = [answer["error"] for answer in answers if "error" in answer]
            clean = code == 0 and len(answers) == len(chosen) and not refused
            said = re.findall(r"^=+ *(?:ERROR SUMMARY|RACECHECK SUMMARY): .*", output, re.M)
            self.row(f"compute-sanitizer {name}", PASS if clean else FAIL,
                     (refused or said or [f"exit {code}"])[-1].lstrip("= ") + f", {len(answers)} of {len(chosen)} cases")

    def awkward(self) -> list[tuple[int, dict]]:
        _, output = self.run(self.binaries / "turns", self.device, stdin='{"list": "awkward"}\n')
        lines = [line for line in output.splitlines() if line.startswith('{"cases"')]
        return list(enumerate(json.loads(lines[0])["cases"])) if lines else []


def run(binaries: Path, device: str, out: Path, deadline: float, brief: bool) -> dict:
    checks = Checks(binaries, device, out, deadline, brief)
    # What most would rest on comes first, what takes longest last.
    for check in (checks.primitives, checks.start, checks.pictures, checks.parity, checks.operations, checks.sanitizers):
        begin = time.monotonic()
        check()
        print(f"  {'':<8} ({time.monotonic() - begin:.0f} s)", flush=True)
    return {"rows": checks.rows, "passed": all(row["result"] != FAIL for row in checks.rows)}
