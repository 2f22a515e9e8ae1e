#!/usr/bin/env python3
"""Writes kernels/wgmma.cuh: one function per width of a warpgroup's product, since inline PTX must name every register.

    python3 tools/wgmma.py > kernels/wgmma.cuh
"""

# Columns of a product. Others that the instruction has, multiples of 8 up to 256, are added when a kernel needs them.
WIDTHS = [8, 16, 32, 40, 48, 64, 72, 80, 88, 96, 112, 128, 144, 160, 168, 176, 192, 256]
LINE = 135

HEAD = """\
// Products of a warpgroup (wgmma.mma_async): d = a b, or d += a b where `accumulate`, for M = 64, N columns and K = 16; halves are multiplied exactly
// and accumulated in f32. Written by tools/wgmma.py.
//
// d is the accumulator: warp w of the group has rows 16 w .., and d[4 j + e] is element e, as gpu.cuh numbers them, of the fragment of columns
// 8 j ... A comes by descriptor from shared memory, K-major, or as fragments of gpu.cuh from registers; B comes by descriptor, K-major
// or, where transposed, with N contiguous. hopper.cuh says when registers and memory may be touched again.
#pragma once

template <int N>
__device__ void multiply_warpgroup(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate);
template <int N>
__device__ void multiply_warpgroup_transposed(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate);
template <int N>
__device__ void multiply_warpgroup_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate);
template <int N>
__device__ void multiply_warpgroup_registers_transposed(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate);

// D is the text that names the accumulators, P0 .. P5 that of the operands behind them; the rest are the accumulators.
#define LDM_WGMMA_ONE(NAME, N, D, OPERANDS, ACCUMULATE, MAJOR, A, ...) \\
    template <> \\
    __device__ __forceinline__ void NAME<N>(float (&d)[N / 2], A, uint64_t b, bool accumulate) { \\
        asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, " ACCUMULATE ", 0;\\n" \\
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" D "}, " OPERANDS ", p, 1, 1, " MAJOR ";\\n}" \\
                     : __VA_ARGS__, "r"(static_cast<int>(accumulate))); \\
    }
#define LDM_WGMMA(N, D, P0, P1, P2, P3, P4, P5, ...) \\
    LDM_WGMMA_ONE(multiply_warpgroup, N, D, P0 ", " P1, P2, "0, 0", uint64_t a, __VA_ARGS__ : "l"(a), "l"(b)) \\
    LDM_WGMMA_ONE(multiply_warpgroup_transposed, N, D, P0 ", " P1, P2, "0, 1", uint64_t a, __VA_ARGS__ : "l"(a), "l"(b)) \\
    LDM_WGMMA_ONE(multiply_warpgroup_registers, N, D, "{" P0 ", " P1 ", " P2 ", " P3 "}, " P4, P5, "0", const uint32_t(&a)[4], \\
                  __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)) \\
    LDM_WGMMA_ONE(multiply_warpgroup_registers_transposed, N, D, "{" P0 ", " P1 ", " P2 ", " P3 "}, " P4, P5, "1", const uint32_t(&a)[4], \\
                  __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
"""


def wrapped(pieces, indent, separator):
    """The pieces over lines of bounded length."""
    lines, line = [], ""
    for piece in pieces:
        if len(indent) + len(line) + len(piece) > LINE:
            lines.append(indent + line.rstrip())
            line = ""
        line += piece + separator
    return lines + [indent + line.rstrip()]


def product(width):
    """The line of one width, or the few lines it takes."""
    count = width // 2
    names = wrapped([f"%{i}" for i in range(count)], "", ", ")
    names[-1] = names[-1].rstrip(",")
    text = "\n".join(f'          "{line} "' if line.endswith(",") else f'          "{line}"' for line in names)
    operands = ", ".join(f'"%{count + i}"' for i in range(6))
    registers = wrapped([f'"+f"(d[{i}])' for i in range(count)], "          ", ", ")
    registers[-1] = registers[-1].rstrip(",") + ")"
    return f"LDM_WGMMA({width},\n{text},\n          {operands},\n" + "\n".join(registers) + "\n"


def main():
    print(HEAD)
    print("".join(product(width) for width in WIDTHS))
    print("#undef LDM_WGMMA\n#undef LDM_WGMMA_ONE")


if __name__ == "__main__":
    main()
