"""The two sides of a comparison, each a process that times work when it is told to, so that they can take turns.

A side reads a line of JSON from its standard input and answers with one: `{"prepare": WORK}` with the work's number, `{"run": NUMBER,
"times": K}` with the seconds of K runs, `{"clear": true}` forgets all work. Ours is the binary `turns` (benches/turns), PyTorch's is peer.py.
"""

import json
import queue
import statistics
import subprocess
import threading
import time
from pathlib import Path


class Failed(Exception):
    """A side that refused, died or took too long; the text says which and why."""


class Side:
    """A process that is asked."""

    def __init__(self, name: str, command: list, log: Path, environment: dict | None = None):
        self.name, self.command, self.log, self.environment = name, [str(word) for word in command], log, environment
        self.child = None

    def start(self) -> None:
        log = self.log.open("a")
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment)
        self.lines: queue.Queue = queue.Queue()
        threading.Thread(target=self.read, args=(self.child, self.lines), daemon=True).start()

    @staticmethod
    def read(child, lines) -> None:
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    def ask(self, request: dict, timeout: float) -> dict:
        """The answer. A side that does not answer in time is ended, and started again by the next question."""
        if self.child is None:
            self.start()
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
            line = self.lines.get(timeout=max(timeout, 0.1))
        except queue.Empty:
            self.stop()
            raise Failed(f"{self.name} had no answer within {timeout:.0f} s") from None
        except OSError:
            line = None
        if line is None:
            code = self.child.wait()
            self.child = None
            raise Failed(f"{self.name} ended with {code}: {last_line(self.log)}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer

    def prepare(self, work: dict, timeout: float) -> dict:
        return self.ask({"prepare": work}, timeout)

    def run(self, number: int, times: int, timeout: float = 120) -> list[float]:
        return self.ask({"run": number, "times": times}, timeout)["seconds"]

    def clear(self) -> None:
        if self.child is not None:
            self.ask({"clear": True}, 60)

    def stop(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1] if lines else "it said nothing"


def summary(seconds: list[float]) -> dict:
    """Median and spread."""
    ordered = sorted(seconds)
    at = lambda share: ordered[min(int(share * len(ordered)), len(ordered) - 1)]
    return {"median": statistics.median(ordered), "p10": at(0.1), "p90": at(0.9), "runs": len(ordered)}


def take_turns(runners: dict, rounds: int, times: int, sampler, warm: int = 3) -> dict:
    """Runs each of `runners` (name to (side, number)) `times` times, round after round: name to summary, and the clocks meanwhile. The first `warm`
    runs of each do not count."""
    for side, number in runners.values():
        side.run(number, warm)
    seconds = {name: [] for name in runners}
    begin = time.monotonic()
    for _ in range(rounds):
        for name, (side, number) in runners.items():
            seconds[name] += side.run(number, times)
    return {name: summary(all_runs) for name, all_runs in seconds.items()} | {"clocks": sampler.during(begin)}
