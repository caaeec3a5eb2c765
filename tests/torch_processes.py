"""What each process of `test_torch_processes.py` does: run by torchrun, never collected.

    python -m torch.distributed.run --nproc-per-node 2 torch_processes.py FOLDER SCENARIO-METHOD ...

Each process writes into the folder what became of each scenario: nothing, or why it failed.
"""

from __future__ import annotations

import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import distributed, nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from convspectra import InputError  # noqa: E402
from convspectra.torch import SpectralClip  # noqa: E402


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 4, 4, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 100, 3),
    )


def batch(size=7):
    return torch.randn(4, 2, size, size, generator=torch.Generator().manual_seed(1))


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def alone(method):
    """What one process makes of it, in two actions."""
    model = network()
    clip = SpectralClip(model, 0.3, method=method, share_work=False)
    for _ in range(2):
        model(batch()[:, :, :7, :7])
        clip.step()
        with torch.no_grad():
            model[0].weight.add_(0.01)
    return model, clip


def replicated(method):
    model = network()
    wrapped = DistributedDataParallel(model)
    norms = {}
    log = (lambda found, step: norms.update(found)) if distributed.get_rank() == 0 else None
    clip = SpectralClip(wrapped, 0.3, method=method, log=log)
    for _ in range(2):
        wrapped(batch())
        clip.step()
        with torch.no_grad():
            model[0].weight.add_(0.01)
    assert [record.name for record in clip.report()] == ["0", "2", "3", "5"]
    assert (sorted(norms)[:2] == ["spectral_norm/0", "spectral_norm/2"]) == (log is not None)
    one, its_clip = alone(method)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(model), strict=True))
    ours, theirs = clip.state_dict(), its_clip.state_dict()
    assert ours["duals"].keys() == theirs["duals"].keys()
    assert all(torch.equal(ours["duals"][name][1], theirs["duals"][name][1]) for name in ours["duals"])


class DoublesOnOne(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * (1 + distributed.get_rank())


def differs_on_one(method):
    """A layer that computes something else in one process only is left alone in both."""
    model = nn.Sequential(DoublesOnOne(2, 6, 3), nn.Conv2d(6, 2, 3))
    for parameter in model.parameters():
        distributed.broadcast(parameter.data, 0)
    clip = SpectralClip(model, 0.1, method=method)
    before = weights(model)
    model(batch())
    with pytest.warns(UserWarning, match="layer '0' computes something else"):
        clip.step()
    assert [record.status for record in clip.report()] == ["computes something else", "held"]
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True)]
    assert moved == [False, False, True, False]


def nan_on_one(method):
    model = network()
    clip = SpectralClip(model, 0.3, method=method)
    model(batch())
    if distributed.get_rank() == 1:
        with torch.no_grad():
            model[2].weight[0, 0, 0, 0] = float("nan")
    before = weights(model)
    with pytest.raises(InputError, match=r"layer '2' has 1;.*\(process 1\)"):
        clip.step()
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, weights(model), strict=True)
    )


def failing_owner(method):
    """A layer that only its owner finds impossible."""
    model = network()
    clip = SpectralClip(model, 0.3, method=method)
    model(batch())
    with torch.no_grad():
        model[2].weight.fill_(3e38)  # finite, and so is nothing that is made of it
    before = weights(model)
    with pytest.raises(InputError, match=r"layer '2'.*no weight was changed"):
        clip.step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def statistics_differ(method):
    """Batch norms whose running statistics are those of each process's own batches."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
    torch.manual_seed(0)
    with torch.no_grad():
        model[0].weight.normal_()
    rank = distributed.get_rank()
    variance = torch.tensor([1e-2, 4.0, 1.0, 9.0]) if rank == 0 else torch.tensor([4.0, 1e-2, 1.0, 9.0])
    clip = SpectralClip(model, 0.3, method=method, guarantee="layer", fold_batch_norm=True)
    model(batch())
    model[1].running_var.copy_(variance)
    clip.step()
    record = clip.report()[0]
    assert record.norm <= 0.3, record.norm
    from convspectra.operators.reference import dense_operator
    from convspectra.torch import geometry_of

    scale = (model[1].weight / torch.sqrt(model[1].running_var + model[1].eps)).detach().double()
    kernel = model[0].weight.detach().double() * scale.reshape(-1, 1, 1, 1)
    matrix = torch.from_numpy(dense_operator(kernel.numpy(), geometry_of(model[0], (7, 7))))
    assert torch.linalg.matrix_norm(matrix, 2) <= 0.3
    found = [None, None]
    distributed.all_gather_object(found, model[0].weight.detach())
    assert torch.equal(*found)


def sizes_differ(method):
    model = nn.Conv2d(2, 3, 3)
    clip = SpectralClip(model, 0.3, method=method)
    model(batch(6 + distributed.get_rank()))
    clip.step()
    assert clip.report()[0].input_shapes == ((6, 6), (7, 7))
    names = [SpectralClip(network(), 1.0, include="0"), SpectralClip(network(), 1.0, include="2")]
    with pytest.raises(InputError, match="holds other layers"):
        names[distributed.get_rank()].step()


def sharded(method):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = network()
    mesh = init_device_mesh("cpu", (2,))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    clip = SpectralClip(model, 0.3, method=method)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_post_hook(clip)
    model(batch()).sum().backward()
    optimizer.step()
    assert hasattr(model[0].weight, "full_tensor")
    found = [parameter.full_tensor() for parameter in model.parameters()]
    one = network()
    its_clip = SpectralClip(one, 0.3, method=method, share_work=False)
    one(batch())
    its_clip.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(one), found, strict=True))
    assert [r.norm for r in clip.report()] == [r.norm for r in its_clip.report()]


if __name__ == "__main__":
    folder, *scenarios = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=120))
    for name in scenarios:
        scenario, method = name.split("-")
        result = Path(folder) / f"{name}-{distributed.get_rank()}"
        try:
            globals()[scenario](method)
            result.write_text("")
        except Exception:  # noqa: BLE001  # the test that reads it shows it
            result.write_text(traceback.format_exc())
        distributed.barrier()
    distributed.destroy_process_group()
