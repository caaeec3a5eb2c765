"""`SpectralClip`: two lines that keep every convolution of a training loop in an operator-norm ball."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..checks import check_count
from ..constrain import Constrained, Limits
from ..constrain.limits import Method
from ..constrain.weight import Dual
from ..errors import InputError, KernelError
from ..guarantee import Guarantee
from . import sharing
from .forward_hooks import Watch
from .jobs import NOT_COMPARED, Job, jobs_of, named, not_finite, refuse_promises, uses_of
from .layer_record import LayerRecord
from .tensors import TOLERANCE, constrain_tensor, cost_of, norm_of_tensor, torus_of
from .weight_uses import MOST_SIZES, Status, Weight, find_layers, is_chosen, not_held, weights_of

Log = Callable[[dict[str, float], int], object]

_NOT_HELD: dict[Status, str] = {
    "computes something else": "computes something else than its weight and geometry say",
    "replaced": "is replaced by another module",
    "not compared": NOT_COMPARED,
}


_SAID_ONCE = "(said once, other layers may do the same)"


class SpectralClip:
    """Keeps the convolutions and linear layers of a model in the ball `norm <= max_norm` while it trains.

        clip = SpectralClip(model, max_norm=1.0, every=100)
        optimizer.register_step_post_hook(clip)

    Learns at forward passes at which sizes each layer runs, and after every `every`-th optimizer step moves
    each weight, in place, by `method`. A weight that several layers share is moved once, for all of them
    (see `convspectra.constrain.constrain`). All new weights are computed before the first is written.

    Left alone, and reported: weights without `requires_grad`; weights that are computed from other parameters
    (parametrizations, weight norm, pruning); layers that never ran; layers that compute something else than
    weight and geometry say (a forward or hooks of their own, quantisation), or of which no input showed it;
    modules that were replaced. PyTorch's own layers are compared at their first pass; those with code of
    their own at each size and mode, at the first call after an action, the second, the fourth, and so on.

    Weights are those of the optimizer: with
    AMP the float32 ones; float16 and bfloat16 weights are computed in float32 and rounded so that the promise
    holds. Under `torch.distributed` the weights are shared out over the processes by cost and broadcast; all
    processes must step together, with the same layers. Weights that FSDP2 cut up are put together, and cut up
    again; then `report` must be called by all processes, too.

    Arguments:
        model: any module; may be compiled, DDP, FSDP2, an EMA copy.
        max_norm: the radius, positive.
        every: act after so many steps.
        method: as of `constrain.Limits`; `"project"`, which is slower, to a gap of 10 %. Repeated,
            `"appendix_a"` exceeds `max_norm` less and less.
        guarantee: which operator's norm. `"layer"`: with its own padding, whatever it is, at each size seen.
            `"torus"`: with its boundary wrapped, at each size seen, rounded up to a multiple of the stride
            (`LayerRecord.tori`). `"any_size"`: with its own padding, at every size; needs no forward pass.
        include: names of layers, or patterns as of `fnmatch`; one or several.
        exclude: of those, names or patterns of layers that are left alone.
        fold_batch_norm: bound each layer together with the batch norm that follows it, as it acts in
            evaluation: rows times `gamma / sqrt(running_var + eps)`. Rows of scale zero are left alone. Which
            follows which is learnt until the first action. A batch norm over another axis than that of the
            layer's channels is refused then.
        log: called after each action with the norms, `{"spectral_norm/<layer>": ..., and where known
            "spectral_norm_before/<layer>": ...}`, and the step. Without it `"appendix_a"` and `"reshaped"`
            save the time that these norms take. Copies and pickles of this object have none. For TensorBoard:
            `lambda norms, step: [writer.add_scalar(k, v, step) for k, v in norms.items()]`.
        share_work: False where processes hold different models.

    Raises:
        InputError: max_norm not positive, every below 1, an unknown method or guarantee, no layer, a pattern
            that matches none, FSDP1, a layer without this guarantee: `"torus"` says nothing about padding
            by reflection or replication.

    Notes:
        Not guaranteed: norms between actions. At a size first seen after an action, before the next.

    References:
        Sedghi, Gupta and Long (2019), Section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        max_norm: float,
        every: int = 1,
        method: Method = "clip",
        guarantee: Guarantee = "layer",
        include: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        fold_batch_norm: bool = False,
        *,
        log: Log | None = None,
        share_work: bool = True,
    ) -> None:
        check_count("every", every)
        self.limits = Limits(max_norm, method, guarantee, fold_batch_norm, tolerance=TOLERANCE)
        self.every, self.log, self.share_work = every, log, share_work
        self.steps = 0
        self.layers = find_layers(model, include, exclude)
        guarantee = self.limits.guarantee
        refuse_promises(self.layers, guarantee)
        self._watch = Watch(
            model,
            self.layers,
            pairs=fold_batch_norm,
            sizes=guarantee != "any_size",
            own_padding=guarantee == "layer",
        )
        self._patterns = include, exclude
        self._known = {layer.name for layer in find_layers(model, "*", ())}
        self._duals: dict[str, Dual] = {}
        self._last: dict[str, tuple[float | None, float | None, float | None]] = {}  # norms and gap
        self._warned: set[str] = set()

    def __call__(self, optimizer: Any = None, args: Any = None, kwargs: Any = None) -> None:
        """`step`, as a hook that an optimizer calls."""
        self.step()

    def step(self) -> bool:
        """Count one optimizer step, and act if it is an `every`-th one.

        Returns:
            Whether it acted.

        Raises:
            InputError: as `act`; then nothing is counted.
        """
        due = (self.steps + 1) % self.every == 0
        if due:
            self._act(self.steps + 1)
        self.steps += 1
        return due

    def act(self) -> None:
        """Move all weights now, whatever the count says: before a model is saved, say.

        Raises:
            InputError: no layer ran so far; a NaN or infinite weight; a layer that has no such
                guarantee. The layer is named, and no weight was changed.
        """
        self._act(self.steps)

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """Learn from one pass of the model: in evaluation mode, no gradients.

        Only needed where the model runs compiled, and was compiled after this object was made.

        Arguments:
            *args: what the model takes.
            **kwargs: what the model takes by name.
        """
        self._watch.observe(*args, **kwargs)

    def remove(self) -> None:
        """Take all hooks off the model. What was learnt stays."""
        self._watch.remove()

    def report(self) -> list[LayerRecord]:
        """What is known of every weight now; norms are computed here.

        Returns:
            A record for each weight, then one for whatever else of the model may be an operator, and is not
            held: see `LayerRecord.status`.
        """
        self._look_again()
        records = [self._record(weight) for weight in weights_of(self.layers, self.limits.guarantee)]
        return records + [
            LayerRecord(name, (), status, self.limits.guarantee, self.limits.max_norm)
            for name, status in not_held(self._watch.model, self.layers, self._known)
            if is_chosen(name, *self._patterns)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a run that is stopped needs to be resumed bit for bit.

        Returns:
            Count, sizes, pairs of layers and batch norms, warm starts; by name, of plain types and tensors.
        """
        return {
            "steps": self.steps,
            "method": self.limits.method,
            "guarantee": self.limits.guarantee,
            "sizes": {layer.name: list(layer.seen.sizes) for layer in self.layers if layer.seen},
            "batch_norms": dict(self._watch.pairing.norms),
            "duals": dict(self._duals),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Arguments:
            state: of a `SpectralClip` of the same model, include and exclude.

        Raises:
            InputError: it is of no `SpectralClip`, or of one with other layers.
        """
        missing = {"steps", "sizes", "batch_norms", "duals", "method", "guarantee"} - set(state)
        if missing:
            raise InputError(f"state must come from SpectralClip.state_dict(); it lacks {sorted(missing)}")
        layers = {layer.name: layer for layer in self.layers}
        unknown = sorted({*state["sizes"], *state["duals"]} - set(layers))
        if unknown:
            raise InputError(
                f"state has layer {unknown[0]!r}, which this SpectralClip does not hold (of {len(unknown)} "
                "such); make it with the same model, include and exclude"
            )
        self.steps = int(state["steps"])
        for name, sizes in state["sizes"].items():
            seen = layers[name].seen
            if seen is not None:
                seen.sizes = [tuple(size) for size in sizes]
        if self.limits.fold_batch_norm:
            self._watch.pairing.norms = {name: list(norms) for name, norms in state["batch_norms"].items()}
        same = (state["method"], state["guarantee"]) == (self.limits.method, self.limits.guarantee)
        self._duals = {name: (tuple(size), dual) for name, (size, dual) in state["duals"].items() if same}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "log": None}

    def _act(self, step: int) -> None:
        processes = sharing.processes() if self.share_work else 1
        self._look_again()
        measure = self._agree(processes)
        jobs = jobs_of(self.layers, self._watch, self.limits.guarantee, processes)
        self._warn_of_sizes()
        self._warn_of_others()
        results = self._computed(jobs, processes, measure)
        self._watch.end_pairing()
        for job, result in zip(jobs, results, strict=True):
            sharing.write(job.weight.tensor, result.weight)
            norms = (_largest(result.norms_before), _largest(result.norms))
            self._last[job.weight.name] = (*norms, result.gap)
            self._duals.pop(job.weight.name, None)
            if result.dual is not None:
                self._duals[job.weight.name] = result.dual
        if self.log:
            self.log(self._numbers(jobs), step)

    def _look_again(self) -> None:
        """Which modules are still there, and at which sizes they ran in compiled graphs."""
        there = set(self._watch.model.modules())
        self._watch.compare_again()
        for layer in self.layers:
            layer.gone = layer.module not in there
            if layer.seen and layer.seen.learn_from_graph():
                self._warn_once(
                    "graph",
                    f"layer {layer.name!r} ran in a compiled graph at a size that was not seen before, "
                    f"{layer.seen.sizes[-1]}: of several such sizes between two actions the last is known; "
                    "make SpectralClip after torch.compile, or call observe(batch) for each size, or take "
                    f"guarantee='any_size' {_SAID_ONCE}",
                )

    def _warn_once(self, about: str, text: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(text, stacklevel=5)

    def _warn_of_others(self) -> None:
        """What was meant to be held, and is not."""
        for one in weights_of(self.layers, self.limits.guarantee):
            if one.status in _NOT_HELD:
                text = f"layer {one.name!r} {_NOT_HELD[one.status]}, and is not held; see report()"
                self._warn_once(f"{one.status} {one.name}", text)

    def _agree(self, processes: int) -> bool:
        """All processes: the same layers, what one of them saw; whether anyone logs norms.

        Raises:
            InputError: on all of them, if a weight of one is not finite.
        """
        sizes = {layer.name: layer.seen.sizes if layer.seen else [] for layer in self.layers}
        shown = {layer.name: layer.compared.shown for layer in self.layers if layer.compared}
        mine = (not_finite(self.layers), sizes, self._watch.pairing.shown, self.log is not None, shown)
        everyone = sharing.gathered(mine) if processes > 1 else [mine]
        for rank, (problem, their_sizes, *_) in enumerate(everyone):
            if problem:
                raise KernelError(problem + (f" (process {rank})" if processes > 1 else ""))
            if list(their_sizes) != list(sizes):
                raise InputError(
                    f"process {rank} holds other layers: give SpectralClip the same model, include and "
                    "exclude on all of them, or share_work=False"
                )
        _, every_sizes, every_pairing, logs, every_shown = zip(*everyone, strict=True)
        for layer in self.layers if processes > 1 else []:
            if layer.seen:
                layer.seen.sizes = []
                for size in chain.from_iterable(theirs[layer.name] for theirs in every_sizes):
                    layer.seen.add(size)
            if layer.compared:
                layer.compared.learn(theirs[layer.name] for theirs in every_shown)
        if processes > 1:
            self._watch.pairing.learn(every_pairing)
        return any(logs)

    def _computed(self, jobs: list[Job], processes: int, measure: bool) -> list[Constrained]:
        """Each job's result; the work of one process is that of all, with the others' broadcast."""
        costs = [cost_of(job.weight.tensor, job.uses) for job in jobs]
        owners = sharing.owners(costs, processes)
        done: dict[int, Constrained] = {}
        problem: InputError | None = None
        for i, job in enumerate(jobs):
            whole = sharing.whole(job.weight.tensor)  # all processes take part
            if problem or owners[i] != sharing.rank() % processes:
                continue
            name = job.weight.name
            try:
                with named(name):
                    dual = self._duals.get(name)
                    done[i] = constrain_tensor(whole, job.uses, self.limits, dual=dual, measure=measure)
            except InputError as error:
                problem = error
        if processes > 1:
            return sharing.exchanged(done, problem, [job.weight.tensor for job in jobs], owners)
        if problem:
            raise problem
        return [done[i] for i in range(len(jobs))]

    def _warn_of_sizes(self) -> None:
        advice = f"guarantee='any_size' holds all sizes at once {_SAID_ONCE}"
        for layer in self.layers:
            if layer.seen and len(layer.seen.sizes) > 1:
                text = f"ran at several sizes, {layer.seen.sizes}: it is held at each"
                self._warn_once("several", f"layer {layer.name!r} {text}; {advice}")
            if layer.seen and layer.seen.dropped:
                text = f"ran at more than {MOST_SIZES} sizes: it is held at the first of them only"
                self._warn_once("dropped", f"layer {layer.name!r} {text}; {advice}")

    def _numbers(self, jobs: list[Job]) -> dict[str, float]:
        found = {}
        for name in (job.weight.name for job in jobs):
            before, after, _ = self._last[name]
            if after is not None:
                found[f"spectral_norm/{name}"] = after
            if before is not None:
                found[f"spectral_norm_before/{name}"] = before
        return found

    def _record(self, weight: Weight) -> LayerRecord:
        unknown = weight.status in ("never run", "not compared")
        uses = [] if unknown else uses_of(weight, self._watch, self.limits.guarantee)
        norm, tori, guarantee = None, [], self.limits.guarantee
        if uses:
            with torch.no_grad(), named(weight.name):
                whole = sharing.whole(weight.tensor)
                norm = norm_of_tensor(whole, uses, self.limits)
                tori = [torus_of(whole.shape, use.geometry, guarantee) for use in uses]
        sizes = [size for layer in weight.layers if layer.seen for size in layer.seen.sizes]
        norms = [norm for layer in weight.layers for norm in self._watch.norms_after(layer.name)]
        before, after, gap = self._last.get(weight.name, (None, None, None))
        return LayerRecord(
            name=weight.name,
            shared_with=tuple(layer.name for layer in weight.layers[1:]),
            status=weight.status,
            guarantee=guarantee,
            max_norm=self.limits.max_norm,
            input_shapes=tuple(dict.fromkeys(sizes)),
            tori=tuple(dict.fromkeys(tori)),
            batch_norms=tuple(dict.fromkeys(norms)),
            norm=norm,
            norm_before=before,
            norm_after=after,
            gap=gap,
        )


def _largest(norms: tuple[Any, ...] | None) -> float | None:
    return None if norms is None else max(map(float, norms))
