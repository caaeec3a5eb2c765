"""Candidates for stacks of small complex SVDs, norms and soft thresholds on a GPU: speed and accuracy.

Accuracy is against float64 on the CPU. The last candidate of each kind is this package's core on the host, to
which a layer's kernel, which is small, would have to be copied.

    python benchmarks/gpu.py [--device cuda] [--seconds 400]

Needs PyTorch; CuPy with CUDA 12.6 or newer adds cuSOLVER's batched eigensolver of any size. Runs unattended
in under 8 minutes, begins with the small sizes, stops at `--seconds`, and prints its table last.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from convspectra._solvers import array_api, native, products, threshold

LEVEL = 0.5
"""Of the soft threshold, in parts of the largest singular value."""


def svd_driver(driver: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def solve(blocks: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(blocks, driver=driver if blocks.is_cuda else None)

    return solve


def gram_eigh(blocks: torch.Tensor) -> torch.Tensor:
    """The smaller Gram matrix in double precision: 1e-8 of the largest, enough for float32 input."""
    wide = blocks.to(torch.complex128)
    gram = wide @ wide.mH if blocks.shape[-2] <= blocks.shape[-1] else wide.mH @ wide
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(-1)


def gram_jacobi(blocks: torch.Tensor, sweeps: int = 8) -> torch.Tensor:
    """One-sided Jacobi by columns, all pairs of a round-robin round at once, in products of the library."""
    a = blocks if blocks.shape[-2] >= blocks.shape[-1] else blocks.mH
    n = a.shape[-1]
    if n % 2:
        a, n = torch.nn.functional.pad(a, (0, 1)), n + 1
    order = list(range(n))
    for _ in range(sweeps):
        for _ in range(n - 1):
            first = torch.tensor(order[: n // 2], device=a.device)
            second = torch.tensor(order[n // 2 :][::-1], device=a.device)
            p, q = a[..., first], a[..., second]
            alpha, beta = p.abs().square().sum(-2), q.abs().square().sum(-2)
            gamma = (p.conj() * q).sum(-2)
            size = gamma.abs()
            none = size <= 1e-30 + 1e-8 * (alpha * beta).sqrt()
            phase = torch.where(none, torch.ones_like(gamma), gamma / torch.where(none, 1.0, size))
            zeta = (beta - alpha) / (2 * torch.where(none, 1.0, size))
            t = torch.where(zeta >= 0, 1.0, -1.0) / (zeta.abs() + (1 + zeta * zeta).sqrt())
            t = torch.where(none, 0.0, t)
            c = 1 / (1 + t * t).sqrt()
            s = (c * t)[..., None, :]
            q = q * phase.conj()[..., None, :]
            c = c[..., None, :]
            a = a.index_copy(-1, first, c * p - s * q).index_copy(-1, second, s * p + c * q)
            order = [order[0], order[-1], *order[1:-1]]
    values = torch.linalg.vector_norm(a, dim=-2).sort(-1, descending=True).values
    return values[..., : min(blocks.shape[-2:])]


def cusolver_batched() -> Callable[[torch.Tensor], torch.Tensor] | None:
    """CuPy's batched Hermitian eigensolver on the double-precision Gram matrix, if CuPy is there."""
    try:
        import cupy
    except ImportError:
        return None

    def solve(blocks: torch.Tensor) -> torch.Tensor:
        wide = blocks.to(torch.complex128)
        gram = wide @ wide.mH if blocks.shape[-2] <= blocks.shape[-1] else wide.mH @ wide
        values = cupy.linalg.eigvalsh(cupy.from_dlpack(gram.detach()))
        return torch.from_dlpack(values).clamp_min(0).sqrt().flip(-1)

    return solve


def methods(device: str) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    if device.startswith("cuda"):
        found |= {f"svdvals, {driver}": svd_driver(driver) for driver in ("gesvdj", "gesvda", "gesvd")}
        if batched := cusolver_batched():
            found["Gram + cuSOLVER batched (CuPy)"] = batched
    else:
        found["svdvals"] = svd_driver("")
    found["Gram + eigvalsh, complex128"] = gram_eigh
    found["one-sided Jacobi"] = gram_jacobi
    return found


def on_host(solve: Callable[[np.ndarray], np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
    """By NumPy arrays on the host, the copy left out of the time: the kernel's is small."""
    kept: dict[int, np.ndarray] = {}

    def run(blocks: torch.Tensor) -> torch.Tensor:
        host = kept.setdefault(id(blocks), blocks.cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(solve(host)))

    return run


def norm_methods() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    found = {
        "Gram + eigvalsh": array_api.largest_singular_value,
        "squarings of the Gram matrix": products.largest_singular_value,
    }
    if native.why_unavailable() is None:
        found["core on the host"] = on_host(lambda b: native.singular_values_of_blocks(b)[0][:, 0])
    return found


def threshold_methods(level: float) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    found = {
        "Gram + eigh": lambda blocks: threshold.lowered_by_gram(blocks, level).blocks,
        "matrix sign and inverse root": lambda blocks: products.lowered(blocks, level).blocks,
    }
    if native.why_unavailable() is None:
        found["core on the host"] = on_host(lambda b: native.lowered_of_blocks(b, level).blocks)
    return found


def timed(solve: Callable[[torch.Tensor], torch.Tensor], blocks: torch.Tensor) -> float:
    times = []
    for _ in range(3):
        if blocks.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        solve(blocks)
        if blocks.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=400.0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    lines = []
    rng = np.random.default_rng(0)
    for rows, batch in ((8, 8192), (16, 8192), (32, 4096), (64, 1024), (128, 256), (256, 64), (512, 16)):
        if not arguments.device.startswith("cuda"):
            batch //= 64
        batch = max(batch, 2)
        host = rng.standard_normal((batch, rows, rows)) + 1j * rng.standard_normal((batch, rows, rows))
        blocks = torch.from_numpy(host.astype(np.complex64)).to(arguments.device)
        checked = min(batch, 16)
        u, exact, v = np.linalg.svd(
            host[:checked].astype(np.complex64).astype(np.complex128), full_matrices=False
        )
        level = LEVEL * float(exact.max())
        lowered = (u * np.maximum(exact - level, 0)[:, None, :]) @ v
        kinds = (
            ("values", methods(arguments.device), exact),
            ("norm", norm_methods(), exact[:, 0]),
            ("threshold", threshold_methods(level), lowered),
        )
        for kind, candidates, expected in kinds:
            for name, solve in candidates.items():
                if name == "one-sided Jacobi" and rows > 64:  # its sweeps of small steps grow with the rows
                    continue
                title = f"{rows:5d} {batch:6d}  {kind:9s} {name:30s}"
                if time.perf_counter() - began > arguments.seconds:
                    lines.append(f"{title} not reached")
                    continue
                try:
                    found = solve(blocks)[:checked].cpu().numpy()
                    error = np.abs(found - expected).max() / exact.max()
                    seconds = timed(solve, blocks)
                except RuntimeError as problem:  # out of memory, a driver that is not there
                    lines.append(f"{title} failed: {str(problem).splitlines()[0][:60]}")
                    continue
                lines.append(f"{title} {seconds * 1e3:10.2f} ms  {error:.1e}")
                print(lines[-1], flush=True)
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the processor"
    print(f"\nPyTorch {torch.__version__} on {where}, {time.perf_counter() - began:.0f} s")
    print(" rows  batch  what      method                              median  error / largest")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
