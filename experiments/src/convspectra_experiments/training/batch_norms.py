"""Batch norms tested with statistics of the weights as they are.

Running statistics lag behind the weights by some tens of steps. Right after a clip, which changes the weights
at once, they are those of another network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def recomputed_norms(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Evaluation mode with statistics from these batches, each batch's counted once; restored afterwards.

    Arguments:
        batches: what enters the network, several examples each.
    """
    norms = [
        part for part in model.modules() if isinstance(part, nn.BatchNorm2d) and part.track_running_stats
    ]
    kept = [({name: one.clone() for name, one in part.named_buffers()}, part.momentum) for part in norms]
    training = model.training
    try:
        for part in norms:
            part.reset_running_stats()
            part.momentum = None  # the plain average
        model.train()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        model.eval()
        yield
    finally:
        for part, (buffers, momentum) in zip(norms, kept, strict=True):
            part.momentum = momentum
            with torch.no_grad():
                for name, one in part.named_buffers():
                    one.copy_(buffers[name])
        model.train(training)
