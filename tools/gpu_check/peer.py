"""PyTorch's side of the comparisons: prepares and times what it is asked for, line by line (see sides.py).

    peer.py cuda|cpu MODEL [nchw|fused]     MODEL: the folder that twin.py writes

Work is {"work": "op", "case": CASE, "way": WAY, "copies": N}, or a network of MODEL in f16 (f32 on the CPU), channels last:
{"work": "unet", "batch": SAMPLES, "mode": MODE}, {"work": "decode", "mode": MODE}, {"work": "steps", "batch": IMAGES, "steps": N, "mode":
MODE}, {"work": "image", "steps": N, "mode": MODE}, {"work": "text", "batch": PROMPTS, "mode": MODE}. MODE is "eager", "graph"
(eager, replayed as one CUDA graph) or one of torch.compile's.
{"work": "op", .., "flush": N} writes N numbers before each run, {"work": "flush", "flush": N, "copies": M} writes them alone, and {"cache": true}
answers with the bytes of the L2 cache. {"ceiling": WHICH} times the device itself. {"dump": FOLDER} writes what f32 answers, for `ldm parity`, and
answers how far eager f16 is from it; {"picture": PNG, ..} answers how far a picture of ours and eager f16's are from the one that f32 draws.
{"memory": true} answers with the most bytes that tensors took since the last such question, {"products": CASES} with those of unequal FLOPs.

`nchw` leaves the networks as they are written, channels before pixels; `fused` joins attention's products and takes the best of its kernels.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import baselines
import joined
import torch
import torch._inductor.config as inductor
from reference import Reference
from trajectory import coefficients, guided, timesteps
from twin import factor, load

GUIDANCE = 7.5


class Peer:
    def __init__(self, device: str, folder: Path, form: str):
        self.device, self.folder, self.form = device, folder, form
        self.attention, self.forced = [], contextlib.ExitStack()
        self.dtype = torch.half if device == "cuda" else torch.float32
        self.work, self.model, self.compiled = [], None, {}
        torch.backends.cudnn.benchmark = True
        # What diffusers advises for these networks.
        inductor.conv_1x1_as_mm = inductor.coordinate_descent_tuning = True
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def answer(self, request: dict) -> dict:
        if "prepare" in request:
            work = request["prepare"]
            begin = time.perf_counter()
            run = getattr(self, work["work"])(**{key: value for key, value in work.items() if key != "work"})
            run()
            self.work.append(run)
            return {"number": len(self.work) - 1, "seconds": time.perf_counter() - begin, "attention": self.attention}
        if "products" in request:
            return {"unequal": baselines.unequal(request["products"])}
        if "cache" in request:
            return {"bytes": baselines.cache_bytes(self.device)}
        if "ceiling" in request:
            run, amount = baselines.ceiling(request["ceiling"], self.device)
            for _ in range(5):
                run()
            return amount | {"seconds": [self.timed(run) for _ in range(20)]}
        if "memory" in request:
            return {"bytes": self.most_memory()}
        if "run" in request:
            return {"seconds": [self.timed(self.work[request["run"]]) for _ in range(request["times"])]}
        if "dump" in request:
            self.model = None
            return Reference(self.device, self.folder).write(Path(request["dump"]), request["steps"], GUIDANCE)
        if "picture" in request:
            self.model = None
            return Reference(self.device, self.folder).compared(**request)
        self.work.clear()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return {}

    def timed(self, run) -> float:
        begin = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def most_memory(self) -> int | None:
        if self.device != "cuda":
            return None
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most

    def op(self, case: dict, way: str, copies: int, flush: int = 0):
        return baselines.ready(case, way, copies, self.device, flush)

    def flush(self, flush: int, copies: int):
        return baselines.flushed(flush, copies, self.device)

    def normal(self, *shape) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    def layout(self) -> torch.memory_format:
        return torch.contiguous_format if self.form == "nchw" else torch.channels_last

    def networks(self):
        if self.model is None:
            self.model = load(self.folder, self.device).to(self.dtype).to(memory_format=self.layout())
            if self.form == "fused":
                self.attention = joined.ranked(self.device)
                joined.force(self.attention, self.forced)
                joined.join(self.model.unet)
        return self.model

    def made(self, name: str, function, mode: str):
        """`function` eager or compiled; a compiled one is kept, so that other work on it does not compile again."""
        if mode in ("eager", "graph"):
            return function
        key = name, mode
        if key not in self.compiled:
            self.compiled[key] = torch.compile(function, mode=mode, fullgraph=True, dynamic=False)
        return self.compiled[key]

    def repeated(self, run, mode: str):
        """`run` in the way that `mode` says."""
        def whole():
            if mode not in ("eager", "graph"):
                torch.compiler.cudagraph_mark_step_begin()
            run()
        return baselines.recorded(whole, self.device) if mode == "graph" else whole

    def latents(self, n: int) -> torch.Tensor:
        side = self.networks().params["image_size"]
        return self.normal(n, 4, side, side).to(memory_format=self.layout())

    def context(self, n: int) -> torch.Tensor:
        return self.normal(n, 77, self.networks().params["unet_config"]["params"]["context_dim"])

    def unet(self, batch: int, mode: str):
        x, context = self.latents(batch), self.context(batch)
        times = torch.full((batch,), 500.0, device=self.device)
        network = self.made("unet", self.networks().unet, mode)
        return self.repeated(lambda: network(x, times, context), mode)

    def decode(self, mode: str):
        latent = self.latents(1)
        network = self.made("decode", self.networks().first_stage_model.decode, mode)
        return self.repeated(lambda: network(latent), mode)

    def text(self, batch: int, mode: str):
        ids = torch.zeros(batch, 77, dtype=torch.long, device=self.device)
        network = self.made("text", self.networks().cond_stage_model, mode)
        return self.repeated(lambda: network(ids), mode)

    def sampled(self, batch: int, steps: int, mode: str):
        """A function from noise and contexts to latents: DDIM with guidance."""
        network = self.made("unet", self.networks().unet, mode)
        update = self.made("update", lambda x, answer, row: guided(GUIDANCE, x, answer, row), mode)
        times, rows = timesteps(steps), coefficients(self.networks(), steps).to(self.device)
        states = [(torch.full((2 * batch,), float(t), device=self.device), row) for t, row in zip(times, rows)]
        compiled = mode not in ("eager", "graph")

        def run(x, context):
            for t, row in states:
                if compiled:
                    torch.compiler.cudagraph_mark_step_begin()
                x = update(x, network(torch.cat([x, x]), t, context), row)
                # A compiled graph answers in memory that its next run overwrites.
                x = x.clone(memory_format=torch.preserve_format) if compiled else x
            return x

        return run

    def steps(self, batch: int, steps: int, mode: str):
        x, context = self.latents(batch), self.context(2 * batch)
        sample = self.sampled(batch, steps, mode)
        return lambda: sample(x, context)

    def image(self, steps: int, mode: str):
        model = self.networks()
        sample = self.sampled(1, steps, mode)
        decode = self.made("decode", model.first_stage_model.decode, mode)
        ids = torch.zeros(2, 77, dtype=torch.long, device=self.device)

        def run():
            context = model.cond_stage_model(ids)
            latent = sample(self.latents(1), context)
            picture = decode(latent / model.scale_factor)
            picture = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
            side = model.params["image_size"] * factor(model.params)
            assert picture.shape == (1, 3, side, side)

        return run


@torch.inference_mode()
def main() -> None:
    peer = Peer(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
    # Libraries print where they like; the answers have a channel of their own.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = peer.answer(json.loads(line))
        except Exception as problem:  # noqa: BLE001 - whatever PyTorch refuses is an answer too
            answer = {"error": f"{type(problem).__name__}: {problem}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
