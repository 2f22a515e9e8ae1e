"""Data-parallel workers, one thread each, that meet once per step to average their gradients.

Where other work shares the cores, this loses far less than one process with a thread per core, which meets at
every operation.
"""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def entry(rank: int, workers: int, port: int, work, args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    torch.set_num_threads(1)
    work(args)
    dist.destroy_process_group()


def launch(work, args):
    """Runs `work(args)` in `args.workers` processes, or here where that is one."""
    if args.workers == 1:
        return work(args)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(entry, (args.workers, port, work, args), nprocs=args.workers)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: list[torch.nn.Parameter]):
    """Replaces each gradient by its mean over the workers, in one exchange."""
    if not dist.is_initialized():
        return
    parameters = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad.copy_(part.view_as(p.grad))


def from_leader(tensor: torch.Tensor) -> torch.Tensor:
    """The first worker's values, in all of them."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)
    return tensor


def agreed(value: float) -> float:
    """The first worker's value: the clock that ends the loop must be one clock."""
    return from_leader(torch.tensor([value], dtype=torch.float64)).item()
