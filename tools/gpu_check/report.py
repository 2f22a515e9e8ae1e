"""The results as JSON and as a page of tables; phases that ran at different times end up in one file."""

import json
from pathlib import Path


def name(head: dict) -> str:
    """`2026-11-20-nvidia-h200`."""
    device = head["device"]["name"].lower().replace(" ", "-")
    return f"{head['date'][:10]}-{device}"


def save(out: Path, head: dict, phase: str, found: dict) -> dict:
    """Adds a phase to the file of this day and device; phases of another commit are dropped from it."""
    path = out / f"{name(head)}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    phases = kept.get("phases", {}) if kept.get("head", {}).get("commit") == head["commit"] else {}
    phases[phase] = found
    results = {"head": head, "phases": phases}
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(results))
    return results


def table(columns: list[str], rows: list[list]) -> str:
    """A Markdown table, padded to be read as it is."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells), 3) if cells else len(column) for i, column in enumerate(columns)]
    left = [not all(row[i][:1].isdigit() or row[i] == "-" for row in cells) for i in range(len(columns))]
    pad = lambda text, i: text.ljust(widths[i]) if left[i] else text.rjust(widths[i])
    lines = [columns, ["-" * width if is_left else "-" * (width - 1) + ":" for width, is_left in zip(widths, left)], *cells]
    return "\n".join("| " + " | ".join(pad(text, i) for i, text in enumerate(row)) + " |" for row in lines) + "\n"


def clock(row: dict, seconds: float | None = None) -> str:
    """The SM clock and the power, and how many cycles so many seconds are."""
    clocks = row.get("clocks", {})
    if not clocks:
        return "-"
    cycles = f", {seconds * clocks['sm_mhz'] * 1e6:,.0f} cycles" if seconds else ""
    return f"{clocks['sm_mhz']:.0f}, {clocks['watts']:.0f} W{cycles}"


def share(floor: float | None, seconds: float) -> str:
    """How much of a time is unavoidable."""
    return f"{100 * floor / seconds:.0f} %" if floor else "-"


def mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def page(results: dict) -> str:
    head = results["head"]
    device = ", ".join(f"{key} {value}" for key, value in head["device"].items())
    parts = [f"# {head['device']['name']}, {head['date']}\n\nCommit {head['commit']}; torch {head['torch']}, CUDA {head['cuda']}, cuDNN "
             f"{head['cudnn']}; {head['host']}.\n\nDevice: {device}. Times are medians; the two sides take turns in one run. A clock is the median "
             "of the SM clock in MHz while a row was timed, sampled every 100 ms, with the power, and ours in cycles of it.\n"]
    for phase, found in results["phases"].items():
        clocks = found.get("clocks", {})
        parts.append(f"## {phase}\n\n{found['taken_seconds']:.0f} s" + (f"; SM clock {clocks['sm_mhz']:.0f} MHz ({clocks['sm_mhz_min']:.0f} to "
                     f"{clocks['sm_mhz_max']:.0f}), {clocks['watts']:.0f} W, {clocks['celsius']:.0f} C" if clocks else "") + ".\n")
        if "problem" in found:
            parts.append(f"The phase ended early: {found['problem']}\n")
        if found.get("figures"):
            parts.append(table(["figure", "asked", "reached"], [[f["figure"], f["asked"], f"{f['reached']:.2f}"] for f in found["figures"]]))
        parts += SECTIONS[phase.split()[0]](found)
    return "\n".join(parts)


def correct(found: dict) -> list[str]:
    return [table(["check", "result", "detail"], [[row["check"], row["result"], row["detail"]] for row in found.get("rows", [])])]


def kernels(found: dict) -> list[str]:
    parts = []
    if found.get("ceilings"):
        rate = lambda limit: f"{limit['tflops']:.1f} TFLOP/s" if "tflops" in limit else f"{limit['gbs']:.0f} GB/s" if "gbs" in limit else "-"
        known = {title: limit for title, limit in found["ceilings"].items() if "seconds" in limit}
        parts.append(table(["what the device can do", "us", "rate", "clock"], [
            [title, f"{limit['seconds'] * 1e6:.2f}", rate(limit), clock(limit)] for title, limit in known.items()]))
        parts += [f"Not measured: {title}: {limit['problem']}\n" for title, limit in found["ceilings"].items() if "problem" in limit]
    if "classes" in found:
        parts.append("Per call of the UNet with so many samples, with 2 of one decode too, each operation as often as it occurs there:\n")
        parts.append(table(["operation", "samples", "calls", "ours, ms", "PyTorch, ms", "ours / PyTorch", "median ratio"], [
            [row["op"], row["samples"], row["calls"], f"{row['ours_ms']:.3f}", f"{row['theirs_ms']:.3f}", f"{row['ratio']:.2f}", f"{row['median_ratio']:.2f}"]
            for row in found["classes"]]))
    rows = []
    for row in found.get("rows", []):
        ours, best = row["seconds"]["ldm"], row["seconds"].get(row.get("best"))
        rows.append([row["name"], row["count"], f"{ours['median'] * 1e6:.2f}", f"{ours['p10'] * 1e6:.2f} - {ours['p90'] * 1e6:.2f}",
                     f"{row['tflops']:.1f}", f"{row['gbs']:.0f}", row.get("best", "-"), f"{best['median'] * 1e6:.2f}" if best else "-",
                     f"{row['ratio']:.2f}" if best else "-", others(row), *flushed(row), clock(row, ours["median"])])
    parts.append(table(["case", "calls", "ours, us", "p10 - p90", "TFLOP/s", "GB/s", "beside", "its us", "ours / its", "others, us", "flushed: ours",
                        "its us", "clock"], rows))
    parts += [f"Not timed: {row['name']}: {way}: {why}\n" for row in found.get("rows", []) for way, why in row.get("refused", {}).items()]
    if found.get("flush"):
        parts.append(f"Flushed: before every run {found['flush'] / 2**20:.0f} MiB are written, twice the L2 cache; what that takes by itself is subtracted.\n")
    for problem in found.get("failed", []):
        parts.append(f"Failed: {problem['name']}: {problem['problem']}\n")
    if found.get("left_out"):
        parts.append(f"{found['left_out']} cases were left out, as the phase's time was up; they are those with the least work.\n")
    return parts


def others(row: dict) -> str:
    """What the ways take that are not the one to compare with."""
    ways = {way: times["median"] for way, times in row["seconds"].items() if way not in ("ldm", row.get("best"))}
    return "; ".join(f"{way} {seconds * 1e6:.2f}" for way, seconds in ways.items()) or "-"


def flushed(row: dict) -> list[str]:
    """What ours and the best of the others take with the cache flushed, in us."""
    return [f"{row['flushed'][side] * 1e6:.2f}" if side in row.get("flushed", {}) else "-" for side in ("ldm", row.get("best"))]


def bench(found: dict) -> list[str]:
    if "rows" not in found:
        return []
    slowest = lambda row: "; ".join(f"{name} {1e3 * row['seconds'][name]:.2f} ms, {100 * part:.0f} %" for name, part in
                                    sorted(row["roofline"].items(), key=lambda pair: -row["seconds"][pair[0]])[:5])
    rows = [[row["network"], row["tiles"], f"{1e3 * row['median']:.3f}", f"{1e3 * row['least']:.3f} - {1e3 * row['most']:.3f}",
             share(row["flop_floor"], row["median"]), share(row["floor"], row["median"]), slowest(row), clock(row, row["median"])] for row in found["rows"]]
    peak = found["rows"][0]
    parts = [f"Measured ceilings: {peak['peak_gflops']:.0f} GFLOP/s, {peak['peak_gbs']:.0f} GB/s.\n"] if peak["peak_gflops"] else []
    parts += [f"`ldm tune` gave {found['tiles']} shapes another tile. A step launches {found['launches']} kernels.\n",
              table(["network", "tiles", "ms", "spread", "of FLOPs alone", "of all operations' floors", "slowest operations, of their ceiling", "clock"], rows)]
    planned = [[plan["model"], mib(plan["planned_mib"]), mib(plan["used_mib"]),
                ", ".join(f"{stage} {count}" for stage, count in plan["launches"].items() if count)] for plan in found["planned"]]
    return parts + ["Memory at the peak of a run; what the device has in use more is the driver's, as much for every model:\n",
                    table(["model", "planned, MiB", "in use more than before, MiB", "launches as planned"], planned)]


def counters(found: dict) -> list[str]:
    parts = [f"{found['note']}.\n"] if "note" in found else []
    rows = [[row["kernel"], row["grid"], row["launches"], f"{row['seconds'] * 1e6:.1f}", f"{row['tensor_percent']:.1f}", f"{row['dram_bytes'] / 1e6:.2f}",
             f"{row['cache_percent']:.1f}", f"{row['cache_hit_percent']:.1f}"] for row in found.get("rows", [])]
    columns = ["kernel", "grid", "launches", "us together, at ncu's clocks", "tensor pipe, %", "MB of memory each", "L2, %", "L2 hits, %"]
    return parts + [table(columns, rows)] if rows else parts


def networks(found: dict) -> list[str]:
    parts = []
    if "errors" in found:
        parts.append("Against PyTorch in f32, same weights and inputs:\n")
        parts.append(table(["network", "ours, relative L2", "largest difference", "PyTorch f16, relative L2", "result"], [
            [e["component"], number(e["relative_l2"]), number(e["max_abs"]), number(e["torch_f16_relative_l2"]), "pass" if e["pass"] else "FAIL"]
            for e in found["errors"]]))
    if found.get("picture"):
        parts.append(pictures(found["picture"]))
    parts.append(table(["what", "ours, ms", "per second", "TFLOP/s", "of FLOPs alone", "of all operations' floors", "PyTorch", "its memory, MiB", "clock"],
                       [network(row) for row in found.get("rows", [])]))
    for row in found.get("rows", []):
        parts += [f"PyTorch {mode} was not timed on \"{row['name']}\": {why}\n" for mode, why in row.get("refused", {}).items()]
        if "attention" in row:
            parts.append(f"\"{row['name']}\": PyTorch's attentions were asked for in this order: {', '.join(row['attention'])}.\n")
    if found.get("ceilings"):
        parts.append(f"Floors are of {found['ceilings']['flops'] / 1e12:.1f} TFLOP/s and {found['ceilings']['bytes'] / 1e9:.0f} GB/s, PyTorch's product and "
                     "copy in this run: of the published FLOPs alone, and of each operation by the ceiling that bounds it, with the fewer FLOPs of a "
                     "convolution that doubling is folded into.\n")
    for problem in found.get("failed", []):
        parts.append(f"Failed: {problem['name']}: {problem['problem']}\n")
    return parts


def network(row: dict) -> list[str]:
    ours = row["seconds"]["ldm"]["median"]
    beside = {mode: times["median"] for mode, times in row["seconds"].items() if mode != "ldm"}
    memory = {mode: taken for mode, taken in row["memory"].items() if taken}
    return [row["name"], f"{ours * 1e3:.2f}", f"{row['units'] / ours:.1f}", f"{row['flops'] / ours / 1e12:.0f}" if row["flops"] else "-",
            share(row["flop_floor"], ours), share(row["floor"], ours),
            "; ".join(f"{mode} {seconds * 1e3:.2f} ms, {seconds / ours:.2f} x ours" for mode, seconds in beside.items()) or "-",
            "; ".join(f"{mode} {taken / 2**20:.0f}" for mode, taken in memory.items()) or "-", clock(row, ours)]


def pictures(found: dict) -> str:
    decibels = lambda value: "no difference" if value is None else f"{value:.1f} dB"
    half = f"; its own f16: {decibels(found['torch_f16_psnr'])}" if "torch_f16_psnr" in found else ""
    return (f"A picture of {found['steps']} steps, from text to 8 bits, against PyTorch's in f32: {decibels(found['psnr'])}, largest difference "
            f"{found['largest']} of 255{half}. It has {found['levels']} levels.\n")


def number(value) -> str:
    return "-" if value is None else f"{value:.2e}"


SECTIONS = {"correct": correct, "kernels": kernels, "bench": bench, "ncu": counters, "networks": networks}
