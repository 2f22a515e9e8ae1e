"""What PyTorch has for an operation of ours, ready to be timed: a way per library.

A way runs one operation `copies` times in a row over three sets of operands, recorded as a CUDA graph, as ours does. It leaves out what ours
has fused in (activations, residuals, sums per channel, joining two sources, doubling), so a ratio is in PyTorch's favour.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SETS = 3

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


class Operands:
    """Random tensors of the device, a fresh one for each call."""

    def __init__(self, device: str, dtype: torch.dtype):
        self.device, self.dtype = device, dtype

    def normal(self, *shape, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, device=self.device) * scale).to(self.dtype)

    def weight(self, *shape) -> torch.Tensor:
        return self.normal(*shape, scale=torch.Size(shape[1:]).numel() ** -0.5)


def joined(case: dict) -> list[int]:
    """The shape of the first operand, the sources joined along the channels."""
    shapes = [operand["shape"] for operand in case["operands"][: case["attributes"].get("sources", 1)]]
    return shapes[0][:-1] + [sum(shape[-1] for shape in shapes)]


def linear(case: dict, make: Operands, _):
    *rows, width = joined(case)
    out = case["attributes"]["out"]
    x, w = make.normal(*rows, width), make.weight(out, width)
    bias = make.normal(out) if case["attributes"]["bias"] else None
    return lambda: F.linear(x, w, bias)


def conv2d(case: dict, make: Operands, _):
    n, height, width, channels = joined(case)
    a = case["attributes"]
    # Ours doubles while it reads; PyTorch's operand is doubled already.
    height, width = (height * 2, width * 2) if a["upsample"] else (height, width)
    top, bottom, left, right = a["padding"]
    x = make.normal(n, channels, height + bottom - top, width + right - left).to(memory_format=torch.channels_last)
    w = make.weight(a["out"], channels, *a["kernel"]).to(memory_format=torch.channels_last)
    bias = make.normal(a["out"]) if a["bias"] else None
    run = lambda: F.conv2d(x, w, bias, stride=a["stride"], padding=(top, left))
    if not a["beside"]:
        return run
    # A residual block's own connection, where it is a map; adding it is left out.
    connection, beside = make.normal(n, a["beside"], height, width).to(memory_format=torch.channels_last), make.weight(a["out"], a["beside"], 1, 1)
    beside = beside.to(memory_format=torch.channels_last)
    return lambda: (run(), F.conv2d(connection, beside))[0]


def attention(case: dict, make: Operands, way: str):
    heads, causal = case["attributes"]["heads"], case["attributes"]["causal"]
    tensors = [make.normal(*operand["shape"]) for operand in case["operands"]]
    # One product made them, one behind the other.
    tensors = tensors[0].chunk(3, dim=-1) if len(tensors) == 1 else tensors
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in tensors)

    def run():
        with sdpa_kernel(BACKENDS.get(way, SDPBackend.MATH)):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


def copy(case: dict, make: Operands, _):
    """Reads and writes as many bytes as the operation must at least, half of them each."""
    bytes_each_way = max(case["bytes"] // 2, 2)
    x = make.normal(bytes_each_way // make.dtype.itemsize)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def group_norm(case: dict, make: Operands, way: str):
    if way == "copy":
        return copy(case, make, way)
    if way == "triton":
        return triton_norm(case, make)
    n, *sides, channels = joined(case)
    x = make.normal(n, channels, *sides)
    x = x.to(memory_format=torch.channels_last) if len(sides) == 2 else x
    gain, bias, groups = make.normal(channels), make.normal(channels), case["attributes"]["groups"]
    silu = F.silu if case["attributes"]["silu"] else lambda y: y
    return lambda: silu(F.group_norm(x, groups, gain, bias))


def triton_norm(case: dict, make: Operands):
    """By kernels of Triton, which are held to PyTorch's first: a fast wrong answer is no result."""
    from triton_ways import group_norm as by_triton

    n, *sides, channels = joined(case)
    x, gain, bias = make.normal(n, torch.Size(sides).numel(), channels), make.normal(channels), make.normal(channels)
    groups, silu = case["attributes"]["groups"], case["attributes"]["silu"]
    run = by_triton(x, groups, gain, bias, silu)
    expected = F.group_norm(x.float().transpose(1, 2), groups, gain.float(), bias.float()).transpose(1, 2)
    # f16 is off by at most 2^-11 of a number; what is near zero is a difference of numbers near 1, in f32.
    torch.testing.assert_close(run().float(), F.silu(expected) if silu else expected, rtol=2**-10, atol=1e-4)
    return run


def layer_norm(case: dict, make: Operands, way: str):
    if way == "copy":
        return copy(case, make, way)
    x = make.normal(*joined(case))
    gain, bias = make.normal(x.shape[-1]), make.normal(x.shape[-1])
    return lambda: F.layer_norm(x, x.shape[-1:], gain, bias)


MAKERS = {"linear": linear, "conv2d": conv2d, "attention": attention, "group_norm": group_norm, "layer_norm": layer_norm}


def unequal(cases: list[dict]) -> list[dict]:
    """The products among `cases` for which PyTorch's way has other FLOPs than ours, counted without running it."""
    found = []
    for case in (case for case in cases if case["op"] in ("linear", "conv2d", "attention")):
        with FlopCounterMode(display=False) as counter:
            MAKERS[case["op"]](case, Operands("meta", torch.half), None)()
        # Of a doubled image ours takes 2 x 2 of the filter's 3 x 3 places, added up beforehand.
        expected = case["flops"] * (9 / 4 if case["attributes"].get("upsample") else 1)
        if counter.get_total_flops() != expected:
            found.append({"name": case["name"], "problem": f"PyTorch has {counter.get_total_flops()} FLOPs to do, not {expected:.0f}"})
    return found


def ready(case: dict, way: str, copies: int, device: str, flush: int):
    """A function that runs the operation `copies` times and waits for the end, each time after `flush` numbers were written."""
    make = Operands(device, torch.half if device == "cuda" else torch.float32)
    runs = [MAKERS.get(case["op"], copy)(case, make, way) for _ in range(SETS)]
    before = flushing(flush, make)

    def all_copies():
        for index in range(copies):
            before()
            runs[index % SETS]()

    return recorded(all_copies, device)


def flushing(flush: int, make: Operands):
    """A function that writes so many numbers, or none."""
    if not flush:
        return lambda: None
    x = make.normal(flush)
    y = torch.empty_like(x)
    return lambda: torch.neg(x, out=y)


def flushed(flush: int, copies: int, device: str):
    """A function that writes `flush` numbers `copies` times."""
    before = flushing(flush, Operands(device, torch.half if device == "cuda" else torch.float32))
    return recorded(lambda: [before() for _ in range(copies)], device)


def cache_bytes(device: str) -> int:
    """The bytes of the last cache before memory; 0 where it is not known."""
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) if device == "cuda" else 0


def recorded(run, device: str):
    """`run` as a CUDA graph that is replayed to its end; itself where there is no GPU."""
    if device != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay():
        graph.replay()
        torch.cuda.synchronize()

    return replay


def empty_launches(count: int, dependent: bool, device: str):
    """A function that launches so many kernels of nothing on every multiprocessor, each perhaps before the one ahead has ended."""
    if device != "cuda":
        return lambda: None
    from triton_ways import ramp

    return ramp(count, torch.cuda.get_device_properties(0).multi_processor_count, dependent)


def ceiling(which: str, device: str):
    """A function whose time says what this device can do at best, and the bytes, FLOPs or launches that it is of."""
    make = Operands(device, torch.half if device == "cuda" else torch.float32)
    small = device != "cuda"
    if which in ("matmul", "matmul of bf16"):
        side = 64 if small else 8192
        make.dtype = torch.bfloat16 if "bf16" in which else make.dtype
        a, b = make.normal(side, side), make.normal(side, side)
        return recorded(lambda: a @ b, device), {"flops": 2 * side**3}
    if which in ("ramp", "dependent ramp"):
        count = 2 if small else 1000
        return recorded(empty_launches(count, which == "dependent ramp", device), device), {"launches": count}
    if which == "nothing":
        x = make.normal(1)
        return recorded(lambda: x.mul_(1.0), device), {}
    # Bytes read and written: far more than the cache holds, or a tensor that stays in it, as a network's do.
    count = 1 << (10 if small else 31 if which == "copy" else 22)
    x = make.normal(count)
    y = torch.empty_like(x)
    return recorded(lambda: y.copy_(x), device), {"bytes": 2 * x.nbytes}
