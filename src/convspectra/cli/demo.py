"""`convspectra demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .delivery import deliver
from .options import Html

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis import Report


def demo(html: Html = Path("convspectra-demo.html")) -> None:
    """Analyse a small trained network that comes with the package; no network, no arguments."""
    from ..analysis import analyze
    from ..demo import DESCRIPTION, model_path
    from ..models import read_model
    from ..report.files import check_targets
    from ..report.text import plain, render, watching

    targets = {"html": html}
    check_targets(targets, {})
    with watching() as told:
        report = analyze(read_model(model_path()), **told)

    def everything(report: Report, console: Console) -> None:
        console.print(DESCRIPTION)
        render(report, console)
        if html is not None:
            console.print(plain(f"The same with figures: {html.resolve()}"), soft_wrap=True)

    deliver(report, targets, {}, everything, complete=report.complete)
