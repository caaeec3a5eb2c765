"""Intervals and promises of adversarial kernels, decided by rational arithmetic where float64 cannot.

    python scripts/check_adversarial.py --stop 100000 --out adversarial.json
    python scripts/check_adversarial.py --merge first.json second.json --out both.json

Taps that cancel, scales to both ends of the range, subnormal numbers, dilation and stride beyond the input,
kernels larger than it, groups, transposed, every padding, in float32 and float64. Kernel `i` of a seed is
always the same, and what is done is kept in `--out` after each chunk: stopped and started again it goes on
where it was; ranges (`--start`, `--stop`) that ran apart are merged. Exit status 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import convspectra as cs
from convspectra import bounds, cost, krylov
from convspectra.atomic import atomic
from convspectra.errors import RangeError
from convspectra.operators.reference import dense_operator
from convspectra.rounding import EXACT

MODES = ("zeros", "zeros", "valid", "same", "circular", "circular", "reflect", "replicate")
KINDS = ("normal", "cancelling", "nearly cancelling", "integers", "rank one", "sparse", "one entry", "scales")
SCALES = ("one", "one", "tiny", "huge", "subnormal", "edge")
METHODS = tuple(name for name in bounds.__all__ if name not in ("operator_norm", "tensor_norm_estimate"))
PROMISES = ("torus", "layer", "any_size")
LARGEST_SIDE, LARGEST_MATRIX = 12, 800
CLOSE = 1e-11
"""Relative to the norm: nearer than this float64 does not decide."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of integers times `2**exponent`."""

    entries: np.ndarray[Any, Any]
    exponent: int

    @property
    def gram(self) -> list[list[int]]:
        """Of the smaller side, without the power."""
        a = self.entries if self.entries.shape[0] <= self.entries.shape[1] else self.entries.T
        return [[int(x) for x in row] for row in a @ a.T]

    def values(self) -> tuple[np.ndarray[Any, Any], int]:
        """Singular values in float64, times `2**` the second: entries rounded once, cancellation and all."""
        top = max((abs(int(x)).bit_length() for x in self.entries.flat), default=0)
        near = np.array([[float(Fraction(int(x), 1 << top)) for x in row] for row in self.entries])
        return np.linalg.svd(near, compute_uv=False), top + self.exponent


def exact_operator(kernel: np.ndarray[Any, Any], geometry: cs.ConvGeometry) -> Matrix:
    """The dense matrix, taps added exactly."""
    whole = [Fraction(float(x)) for x in kernel.flat]
    exponent = -max(x.denominator.bit_length() - 1 for x in whole)
    integers = np.array([int(x * (1 << -exponent)) for x in whole] + [None], dtype=object)[:-1]
    return Matrix(dense_operator(integers.reshape(kernel.shape), geometry), exponent)


def is_at_most(matrix: Matrix, limit: Fraction) -> bool:
    """Whether the norm is at most a limit, decided in rational arithmetic.

    `limit^2 I - A^T A` is positive semidefinite exactly where its elimination, here without fractions
    (Bareiss 1968), meets no negative pivot, and nothing beside a pivot of zero.
    """
    limit = limit / Fraction(2) ** matrix.exponent
    square, unit = limit.numerator**2, limit.denominator**2
    left = [[-unit * x for x in row] for row in matrix.gram]
    side, before = len(left), 1
    for i in range(side):
        left[i][i] += square
    for k in range(side):
        pivot = left[k][k]
        if pivot < 0 or (pivot == 0 and any(left[k][k:])):
            return False
        if pivot == 0:
            continue
        for i in range(k + 1, side):
            left[i] = [(pivot * left[i][j] - left[i][k] * left[k][j]) // before for j in range(side)]
        before = pivot
    return True


class Judge:
    """What is true of one operator, and how often rational arithmetic had to decide it."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.singular_values, self.exponent = matrix.values()
        self.norm = float(self.singular_values.max(initial=0.0))
        self.decided_exactly = 0

    def relative(self, number: Any) -> float:
        """A number over the norm."""
        quotient = Fraction(float(number)) / Fraction(2) ** self.exponent
        if self.norm == 0:
            return 2.0 + float(number > 0)
        quotient /= Fraction(self.norm)
        return float(quotient) if quotient < 10**30 else math.inf

    def at_most(self, limit: Any) -> bool:
        """Whether the norm is at most the limit."""
        ratio = self.relative(limit)
        if abs(ratio - 1) > CLOSE:
            return ratio > 1
        self.decided_exactly += 1
        return is_at_most(self.matrix, Fraction(float(limit)))

    def at_least(self, limit: Any) -> bool:
        """Whether the norm is at least the limit."""
        if float(limit) <= 0:
            return True
        ratio = self.relative(limit)
        if abs(ratio - 1) > CLOSE:
            return ratio < 1
        self.decided_exactly += 1
        # Less than the limit would be at most a number a little below it; a part in 10^30 is not told apart.
        return not is_at_most(self.matrix, Fraction(float(limit)) * (1 - Fraction(1, 10**30)))


def random_geometry(rng: np.random.Generator) -> tuple[tuple[int, ...], cs.ConvGeometry] | None:
    """The shape of a kernel and a geometry; None where there is no output or too large a matrix."""
    axes = int(rng.choice([1, 1, 1, 2, 2, 3]))
    mode = str(rng.choice(MODES))
    stride, dilation = rng.choice([1, 1, 2, 3, 5], axes), rng.choice([1, 1, 2, 3, 7], axes)
    taps = rng.integers(1, (6, 4, 3)[axes - 1] + 1, axes)
    groups, transposed = int(rng.choice([1, 1, 1, 2, 3])), bool(rng.random() < 0.3)
    channels = (groups * int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    size = rng.integers(1, (7, 4, 3)[axes - 1], axes)
    reach = dilation * (taps - 1)
    padding: object = "same" if mode == "same" else "valid"
    if mode not in ("same", "valid"):
        padding = [tuple(map(int, rng.integers(0, min(r, 9) + 2, 2))) for r in reach]
    options: dict[str, Any] = {
        "stride": tuple(map(int, stride)),
        "dilation": tuple(map(int, dilation)),
        "groups": groups,
        "transposed": transposed,
        "padding": "same" if mode == "circular" and rng.random() < 0.5 else padding,
        "padding_mode": mode if mode in ("circular", "reflect", "replicate") else "zeros",
    }
    shape = (*channels, *map(int, taps))
    try:
        geometry = cs.ConvGeometry(tuple(map(int, size)), **options)
        c = geometry.correlation(shape)
    except cs.GeometryError:
        return None
    sides = sorted((c.out_channels * math.prod(c.output_shape), c.in_channels * math.prod(c.input_shape)))
    mirrors_a_point = mode == "reflect" and min(c.input_shape) == 1
    if sides[0] > LARGEST_SIDE or math.prod(sides) > LARGEST_MATRIX or mirrors_a_point:
        return None
    return shape, geometry


def random_kernel(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Entries of about 1, as the kind has it, times a scale of the precision's range."""
    kind, scale = str(rng.choice(KINDS)), str(rng.choice(SCALES))
    single = dtype == np.float32
    kernel = rng.standard_normal(shape)
    flat = kernel.reshape(*shape[:2], -1)
    if kind in ("cancelling", "nearly cancelling"):
        flat[..., -1] -= flat.sum(axis=-1)
        if kind == "nearly cancelling":
            flat[..., -1] *= 1 + 10.0 ** -rng.integers(4, 20)
    elif kind == "integers":
        kernel = rng.integers(-2, 3, shape).astype(np.float64)
    elif kind == "rank one":
        kernel = np.multiply.outer(rng.standard_normal(shape[:2]), rng.standard_normal(shape[2:]))
    elif kind == "sparse":
        kernel = kernel * (rng.random(shape) < 0.4)
    elif kind == "one entry":
        kernel = np.where(np.arange(kernel.size).reshape(shape) == rng.integers(kernel.size), kernel, 0.0)
    elif kind == "scales":
        kernel = kernel * 10.0 ** rng.integers(-18 if single else -150, 1, shape)
    limits = np.finfo(dtype)
    exponent = {
        "one": 0,
        "tiny": -int(rng.integers(1, 19 if single else 151)),
        "huge": int(rng.integers(1, 19 if single else 151)),
        "subnormal": math.floor(math.log10(float(limits.smallest_normal)))
        - int(rng.integers(-1, 9 if single else 16)),
        "edge": math.floor(math.log10(float(limits.max))) - int(rng.integers(0, 4)),
    }[scale]
    largest = float(np.abs(kernel).max()) or 1.0
    if scale == "edge":
        kernel = kernel / largest
    found = (kernel * 10.0 ** (exponent // 2) * 10.0 ** (exponent - exponent // 2)).astype(dtype)
    return np.asarray(found)


def random_layer(seed: int, index: int) -> tuple[np.ndarray[Any, Any], cs.ConvGeometry]:
    """Kernel and geometry of one index: the first that its generator gives."""
    rng = np.random.default_rng([seed, index])
    while (found := random_geometry(rng)) is None:
        pass
    shape, geometry = found
    return random_kernel(rng, shape, (np.float32, np.float64)[index % 2]), geometry


class Check:
    """All that is checked of one layer: counts, and what is violated."""

    def __init__(self, seed: int, index: int) -> None:
        self.index, self.rng = index, np.random.default_rng([seed, index, 1])
        self.kernel, self.geometry = random_layer(seed, index)
        self.judge = Judge(exact_operator(self.kernel, self.geometry))
        self.counts: Counter[str] = Counter()
        self.violated: list[str] = []
        self.judges: dict[cs.ConvGeometry, Judge] = {self.geometry: self.judge}

    def run(self) -> Check:
        """Every kind of bound and promise, by turns those that take long."""
        self.attempt("operator_norm", self.interval, bounds.operator_norm)
        self.attempt("singular_values", self.spectrum)
        for name in self.rng.choice(METHODS, 2, replace=False):
            self.attempt(str(name), self.interval, getattr(bounds, name))
        guarantee = str(self.rng.choice(PROMISES))
        self.attempt(f"rescale {guarantee}", self.promise, cs.rescale, guarantee)
        turn = self.rng.integers(6)
        if turn == 0:
            self.attempt("certificates", self.certificates)
        elif turn == 1:
            self.attempt("krylov", self.krylov)
        elif turn == 2:
            self.attempt(f"project_schatten {guarantee}", self.promise, schatten, guarantee)
        elif turn == 3:
            self.attempt(f"project {guarantee}", self.promise, cs.project, guarantee)
        return self

    def attempt(self, name: str, check: Any, *arguments: Any) -> None:
        """Errors that say why are answers; a number out of range must be near its end."""
        try:
            found = check(*arguments)
        except RangeError:
            self.counts["out of range"] += 1
            most = float(np.finfo(self.kernel.dtype).max)
            moduli = float(np.abs(self.kernel / most).sum())
            found = "is said to be out of range" if moduli * 100 < 1 else ""
        except (cs.GeometryError, cs.KernelError) as error:
            self.counts["refused"] += 1
            allowed = isinstance(error, cs.GeometryError) and name != "operator_norm"
            found = "" if allowed or "so far above" in str(error) else f"raised {error}"
        except Exception:  # noqa: BLE001  # of any other kind: violated, and reported
            found = traceback.format_exc(limit=-3)
        else:
            self.counts[name] += 1
        if found:
            self.violated.append(f"{name}: {found}")

    def interval(self, method: Any) -> str:
        return self.holds(method(self.kernel, self.geometry))

    def holds(self, bound: cs.Bound) -> str:
        """What is wrong with a bound of this operator."""
        lower, upper = bound.lower, bound.upper
        if any(end is not None and not math.isfinite(float(end)) for end in (lower, upper)):
            return f"{bound}"
        any_size = bound.method in ("pfister2018", "duffin1938")  # of which this operator's norm may be less
        if bound.exact and float(lower) == float(upper) and not any_size:
            off = abs(self.judge.relative(upper) - 1) if self.judge.norm > 0 else float(upper)
            return "" if off <= EXACT[str(self.kernel.dtype)] else f"{off:.1e} off: {bound}"
        if lower is not None and upper is not None and not float(lower) <= float(upper):
            return f"lower > upper: {bound}"
        if lower is not None and not any_size and not self.judge.at_least(lower):
            return f"lower is {self.judge.relative(lower)!r} of the norm: {bound}"
        slack = 1 + EXACT[str(self.kernel.dtype)] if bound.exact and any_size else 1
        if upper is not None and not self.judge.at_most(float(upper) * slack):
            return f"upper is {self.judge.relative(upper)!r} of the norm: {bound}"
        return ""

    def certificates(self) -> str:
        side = cost.LARGEST_MATRIX
        try:
            cost.LARGEST_MATRIX = 0
            return self.interval(bounds.operator_norm)
        finally:
            cost.LARGEST_MATRIX = side

    def of(self, kernel: np.ndarray[Any, Any], geometry: cs.ConvGeometry) -> Judge:
        return Judge(exact_operator(kernel, geometry))

    def spectrum(self) -> str:
        """All values of the wrapped layer, within what they say."""
        wrapped = self.geometry.on_torus()
        found = cs.singular_values(self.kernel, wrapped)
        judge = self.of(self.kernel, wrapped)
        values = np.zeros(found.count)
        unit = Fraction(2) ** judge.exponent
        values[: len(judge.singular_values)] = np.sort(judge.singular_values)[::-1][: found.count]
        most = max(
            (
                abs(Fraction(float(a)) - Fraction(b) * unit)
                for a, b in zip(found.sorted(), values, strict=True)
            )
        )
        # The judge's own values are rounded relative to their norm.
        own = Fraction(judge.norm) * unit * Fraction(1e-13)
        return "" if most <= Fraction(float(found.error)) + own else f"{float(most):.3g} > {found.error:.3g}"

    def krylov(self) -> str:
        triplets = krylov.largest(self.kernel, self.geometry, applications=60)
        if not self.judge.at_least(triplets.values[0]):
            return f"krylov is {self.judge.relative(triplets.values[0])!r} of the norm"
        unit = Fraction(2) ** self.judge.exponent
        value, residual = (Fraction(float(x)) for x in (triplets.values[0], triplets.residuals[0]))
        near = min(abs(value - Fraction(s) * unit) for s in [*map(float, self.judge.singular_values), 0.0])
        own = Fraction(self.judge.norm) * unit * Fraction(1e-13)
        return "" if near <= residual + own else f"no singular value within {float(residual):.3g}"

    def promise(self, move: Any, guarantee: str) -> str:
        """The norm of what comes back, against the limit as it was given."""
        share = 10.0 ** -self.rng.uniform(-0.5, 4)
        norm = Fraction(self.judge.norm) * Fraction(2) ** self.judge.exponent
        most = Fraction(float(np.finfo(np.float64).max))
        limit = float(min(norm * Fraction(share), most)) or share
        moved = np.asarray(move(self.kernel, self.geometry, limit, guarantee=guarantee).kernel)
        for geometry in promised(self.geometry, guarantee, self.kernel.shape):
            judge = self.of(moved, geometry)
            if not judge.at_most(limit):
                return f"the limit {limit!r} is {judge.relative(limit)!r} of the norm for {geometry}"
            self.judge.decided_exactly += judge.decided_exactly
        return ""


def schatten(kernel: Any, geometry: cs.ConvGeometry, limit: float, guarantee: str) -> cs.Projection:
    """The operator norm as a Schatten norm."""
    return cs.project_schatten(kernel, geometry, limit, p=math.inf, guarantee=guarantee)


def promised(geometry: cs.ConvGeometry, guarantee: str, shape: tuple[int, ...]) -> list[cs.ConvGeometry]:
    """Small operators that a promise is about."""
    if guarantee == "torus":
        correlation = geometry.correlation(shape)
        same = correlation.is_circulant or geometry.padding_mode == "circular"
        return [geometry if same else geometry.on_torus()]
    if guarantee == "layer":
        return [geometry]
    found = [geometry]
    for more in (1, 2):
        larger = replace(geometry, input_shape=tuple(n + more for n in geometry.input_shape))
        try:
            c = larger.correlation(shape)
        except cs.GeometryError:
            continue
        sides = (c.out_channels * math.prod(c.output_shape), c.in_channels * math.prod(c.input_shape))
        if min(sides) <= 2 * LARGEST_SIDE:
            found.append(larger)
    return found


def fresh(seed: int, start: int) -> dict[str, Any]:
    ranges = [[start, start]]
    return {"seed": seed, "ranges": ranges, "checked": {}, "exactly": 0, "violated": [], "seconds": 0.0}


def merged(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Several ranges of one seed as one."""
    if len({state["seed"] for state in states}) > 1:
        raise SystemExit("only ranges of one seed are merged")
    whole = fresh(states[0]["seed"], 0) | {"ranges": []}
    for state in states:
        whole["checked"] = dict(Counter(whole["checked"]) + Counter(state["checked"]))
        for name in ("ranges", "exactly", "violated", "seconds"):
            whole[name] += state[name]
    return whole


def keep(path: Path | None, state: dict[str, Any]) -> None:
    if path is not None:
        with atomic(path) as file:
            file.write((json.dumps(state, indent=1) + "\n").encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--stop", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--merge", type=Path, nargs="+")
    options = parser.parse_args()
    if options.merge:
        state = merged([json.loads(path.read_text()) for path in options.merge])
        keep(options.out, state)
        print(json.dumps(state, indent=1))
        return 1 if state["violated"] else 0
    warnings.simplefilter("error")
    state = fresh(options.seed, options.start)
    if options.out and options.out.exists():
        found = json.loads(options.out.read_text())
        same = found["seed"] == options.seed and found["ranges"][0][0] == options.start
        state = found if same else state
    while (done := state["ranges"][0][1]) < options.stop:
        began, stop, counts = (
            time.perf_counter(),
            min(done + options.chunk, options.stop),
            Counter(state["checked"]),
        )
        for index in range(done, stop):
            one = Check(options.seed, index).run()
            counts += Counter({"kernels": 1}) + one.counts
            state["exactly"] += one.judge.decided_exactly
            state["violated"] += [{"index": index, "what": what} for what in one.violated]
        state["checked"], state["ranges"][0][1] = dict(counts), stop
        state["seconds"] += time.perf_counter() - began
        keep(options.out, state)
        print(f"{stop:>7} kernels, {len(state['violated'])} violated, {state['seconds']:.0f} s", flush=True)
    return 1 if state["violated"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
