"""The least time that work could take by what was measured of the device: FLOPs at the rate of its best product of matrices, bytes at that of a
copy."""

import statistics

from sides import Side


def measured(theirs: Side, timeout: float) -> dict:
    """FLOPs and bytes a second, of PyTorch's product of 8192 x 8192 halves and its copy through memory."""
    found = {}
    for which, key in [("matmul", "flops"), ("copy", "bytes")]:
        answer = theirs.ask({"ceiling": which}, timeout)
        found[key] = answer[key] / statistics.median(answer["seconds"])
    return found


def operations(cases: list[dict], limits: dict) -> float:
    """Seconds of all calls of `cases`, each by the ceiling that bounds it, with no operand in a cache."""
    return sum(case.get("count", case.get("calls", 1)) * max(case["flops"] / limits["flops"], case["bytes"] / limits["bytes"]) for case in cases)
