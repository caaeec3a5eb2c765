"""A callback for Lightning, of either name: `lightning` or `pytorch_lightning`, whichever is there.

Imported only when `SpectralClipCallback` is asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from .spectral_clip import SpectralClip

_LIBRARIES = ("lightning.pytorch", "pytorch_lightning")


class _ClipsAfterSteps:
    """`SpectralClip` in a `Trainer`: acts after optimizer steps, not micro-batches; saved with checkpoints.

        Trainer(callbacks=[SpectralClipCallback(max_norm=1.0, every=100)])

    At the end of the training it acts once more, so that the model that is left is held. Norms are logged
    with the module's own loggers where `log_norms` is set.

    Arguments:
        optimizer: which of the module's optimizers counts steps, where there are several.
        log_norms: send the norms after each action to `trainer.loggers`.
        arguments: of `SpectralClip`, without the model.

    Raises:
        ValueError, InputError: as `SpectralClip`, when training begins.
    """

    def __init__(self, *, optimizer: int = 0, log_norms: bool = False, **arguments: Any) -> None:
        super().__init__()
        self.optimizer, self.log_norms, self.arguments = optimizer, log_norms, arguments
        self.clip: SpectralClip | None = None
        self._saved: dict[str, Any] | None = None
        self._handle: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Watch the module from its first forward pass on (also that of the sanity check)."""
        log = None
        if self.log_norms:

            def log(norms: dict[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(norms, step=step)

        self.clip = SpectralClip(pl_module, **{"log": log, **self.arguments})
        if self._saved is not None:
            self.clip.load_state_dict(self._saved)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Follow the optimizer, which stands by now."""
        self._handle = trainer.optimizers[self.optimizer].register_step_post_hook(self.clip)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Act once more where steps were taken since the last action, and take all hooks off again."""
        if self._handle is not None and self.clip is not None:
            if self.clip.steps % self.clip.every:
                self.clip.act()
            self._handle.remove()
            self.clip.remove()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.clip is None else self.clip.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint, before or after training begins."""
        self._saved = state_dict or None
        if self.clip is not None and self._saved is not None:
            self.clip.load_state_dict(self._saved)


def _callback_class() -> type:
    """`_ClipsAfterSteps` as a callback of the library that the program uses, or of the first one there is.

    Raises:
        ImportError: there is none.
    """
    for library in sorted(_LIBRARIES, key=lambda name: name not in sys.modules):
        try:
            base = importlib.import_module(f"{library}.callbacks").Callback
        except ImportError:
            continue
        attributes = {"__module__": __name__, "__doc__": _ClipsAfterSteps.__doc__}
        return type("SpectralClipCallback", (_ClipsAfterSteps, base), attributes)
    raise ImportError("convspectra.torch.lightning needs Lightning: pip install lightning")


def __getattr__(name: str) -> Any:
    if name != "SpectralClipCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = _callback_class()  # one class, so that it can be pickled
    return globals()[name]
