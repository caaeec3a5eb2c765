"""A sweep as an Optuna study in one journal file, to be looked at with Optuna's own tools while it grows.

What is to be run, is being run and is done stands in the runs' folders and their locks (`running.py`); the
study is told. A run whose process died leaves a failed trial; the one that takes it up again is a new
trial; so each run has at most one complete trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convspectra.errors import InputError

from ..training.folder import locked, read_result, run_folder
from .catalogue import Planned

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Study:
    """The journal of one sweep.

    Raises:
        InputError: from every method, it cannot read or write the journal.
    """

    def __init__(self, out: Path, name: str) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.out, self.lock, self.journal = out, out / f"{name}.lock", out / f"{name}.journal"
        with self._held():
            path = str(self.journal)
            storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
            self.study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)

    def begin(self, planned: Planned) -> int | None:
        """A trial for a run, whose lock the caller holds; None if the study has it complete."""
        from optuna.trial import TrialState

        name = planned.settings.name()
        with self._held():
            for trial in self.study.get_trials(deepcopy=False):
                if trial.state == TrialState.WAITING:  # enqueued by a process that died before it asked
                    self.study.tell(self.study.ask(), state=TrialState.FAIL)
                if trial.user_attrs.get("run") != name:
                    continue
                if trial.state == TrialState.COMPLETE:
                    return None
                if trial.state == TrialState.RUNNING:  # by a process that lives no longer
                    self.study.tell(trial.number, state=TrialState.FAIL)
            values = _parameters(planned)
            self.study.enqueue_trial(values, user_attrs={"run": name})
            return self.study.ask(_distributions(values)).number

    def end(self, number: int | None, result: dict[str, Any] | None) -> None:
        """The result of a trial; None where the run was stopped."""
        from optuna.trial import TrialState

        if number is None:
            return
        with self._held():
            if result is None:
                self.study.tell(number, state=TrialState.FAIL)
            else:
                self.study.tell(number, float(result["test_error"]))

    def catch_up(self, runs: Iterable[Planned]) -> None:
        """Tell of runs that finished without the study's knowledge."""
        for planned in runs:
            folder = run_folder(self.out, planned.settings)
            result = read_result(folder)
            if result is not None:
                with locked(folder / "lock", wait=True):
                    self.end(self.begin(planned), result)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The journal, for this process alone."""
        with locked(self.lock, wait=True):
            # Optuna's own lock outlives a killed process, and would be waited for.
            self.journal.with_name(f"{self.journal.name}.lock").unlink(missing_ok=True)
            try:
                yield
            except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
                raise InputError(
                    f"{self.journal} cannot be used: {type(error).__name__}: {error}; delete it, it is made "
                    "again from the results"
                ) from None


def _parameters(planned: Planned) -> dict[str, Any]:
    settings = planned.settings
    limit = settings.control.limit
    return {
        "clipped": limit is not None,
        **({} if limit is None else {"limit": limit}),
        "rate": settings.rate,
        "batch": settings.batch,
        "epochs_per_decay": settings.epochs_per_decay,
        "seed": settings.seed,
    }


def _distributions(names: Iterable[str]) -> dict[str, BaseDistribution]:
    """Ranges that hold whatever a sweep may contain: a study must not change them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {
        "clipped": CategoricalDistribution([False, True]),
        "limit": FloatDistribution(1e-6, 1e6, log=True),
        "rate": FloatDistribution(1e-9, 1e3, log=True),
        "batch": IntDistribution(1, 10**9),
        "epochs_per_decay": IntDistribution(1, 10**9),
        "seed": IntDistribution(0, 2**62),
    }
    return {name: known[name] for name in names}
