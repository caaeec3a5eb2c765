"""A network's proven Lipschitz bound against its derivative at many random points: none may be above it.

    python scripts/check_lipschitz.py FILE [--points N] [--output NAME]

FILE is an ONNX file, an exported program, or a published CIFAR ResNet (.th).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from convspectra.models.graphs import read_graph
from convspectra.models.operations import Graph
from convspectra.network import lipschitz


def graph_of(path: Path) -> Graph:
    """The network in a file."""
    if path.suffix != ".th":
        return read_graph(path)
    from convspectra_experiments.networks.published import load_published

    return read_graph(module=load_published(path), sample_shape=(3, 32, 32))


def main() -> int:
    """Print both sides; exit status 1 where they contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--output", action="append", default=[])
    options = parser.parse_args()
    graph, started = graph_of(options.file), time.perf_counter()
    upper = lipschitz(graph, outputs=options.output).joint.upper
    between = time.perf_counter()
    found = lipschitz(
        graph, outputs=options.output, points=options.points, iterations=options.iterations
    ).joint
    print(
        f"{graph.name}: upper {upper:.6g} in {between - started:.1f} s; lower {found.lower:.6g} at ", end=""
    )
    print(f"{options.points} points in {time.perf_counter() - between:.1f} s")
    return int(found.lower is None or found.lower > upper)


if __name__ == "__main__":
    sys.exit(main())
