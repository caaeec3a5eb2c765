"""Work shared out over the processes of `torch.distributed`; with one process, nothing.

Every function here that takes part in communication must be called by all processes, in the same order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import distributed

from ..constrain import Constrained
from ..errors import InputError


def processes() -> int:
    """How many processes there are; 1 where `torch.distributed` is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def rank() -> int:
    return distributed.get_rank() if processes() > 1 else 0


def owners(costs: list[float], count: int) -> list[int]:
    """A process for each job: longest processing time first, each to the process that has least to do.

    The same on every process, since it depends on nothing else.
    """
    load, owner = [0.0] * count, [0] * len(costs)
    for job in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner[job] = min(range(count), key=lambda i: (load[i], i))
        load[owner[job]] += costs[job]
    return owner


def gathered(thing: Any) -> list[Any]:
    """What each process gave, on every process."""
    found: list[Any] = [None] * processes()
    if len(found) == 1:
        return [thing]
    distributed.all_gather_object(found, thing)
    return found


def largest(tensor: torch.Tensor) -> torch.Tensor:
    """Entry by entry the largest that a process gave, on every process."""
    found = tensor.clone()
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return found


def broadcast(tensor: torch.Tensor, owner: int) -> torch.Tensor:
    """The owner's tensor on every process; elsewhere the given one is overwritten."""
    tensor = tensor.contiguous()
    distributed.broadcast(torch.view_as_real(tensor) if tensor.is_complex() else tensor, src=owner)
    return tensor


def exchanged(
    done: dict[int, Constrained], problem: InputError | None, weights: list[torch.Tensor], owner: list[int]
) -> list[Constrained]:
    """All results on every process, from those that each has done.

    Raises:
        InputError: on all processes, the `problem` of the first that has one.
    """
    facts = {
        i: replace(held, weight=_EMPTY, dual=held.dual and (held.dual[0], held.dual[1].to("meta")))
        for i, held in done.items()
    }
    everyone = gathered((problem, facts))
    for theirs, _ in everyone:
        if theirs:
            raise theirs
    results = []
    for i, (weight, source) in enumerate(zip(weights, owner, strict=True)):
        mine, fact = done.get(i), everyone[source][1][i]
        new = mine.weight if mine else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        dual = mine.dual if mine else fact.dual
        if dual is not None:
            there = dual[1] if mine else torch.empty_like(dual[1], device=weight.device)
            dual = (dual[0], broadcast(there, source))
        results.append(replace(fact, weight=broadcast(new, source), dual=dual))
    return results


_EMPTY = torch.empty(0)


def is_cut_up(weight: torch.Tensor) -> bool:
    """Whether it is a `DTensor`, whose class takes a second to import where nobody has made one."""
    return hasattr(weight, "full_tensor")


def whole(weight: torch.Tensor) -> torch.Tensor:
    """All of a weight, also of one that FSDP2 or tensor parallelism cut up (then all processes take part)."""
    found: Any = weight.detach()
    return found.full_tensor() if is_cut_up(weight) else found  # type: ignore[no-any-return]


def own_part(weight: torch.Tensor) -> torch.Tensor:
    """What of a weight stands in this process."""
    found: Any = weight.detach()
    return found.to_local() if is_cut_up(weight) else found  # type: ignore[no-any-return]


def write(weight: torch.Tensor, values: torch.Tensor) -> None:
    """Overwrite a weight, in place, with whole `values` that every process has."""
    with torch.no_grad():
        if is_cut_up(weight):
            from torch.distributed.tensor import distribute_tensor

            cut: Any = weight
            # Without a source process each takes its part of what it has.
            values = distribute_tensor(values, cut.device_mesh, cut.placements, src_data_rank=None)
        weight.copy_(values)
