from typing import Any

import numpy as np

def instruction_sets() -> list[str]: ...
def values_of_blocks(
    blocks: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    instruction_set: str,
    sweeps: int,
    layout: int,
    /,
) -> int: ...
def values_of_symbol(
    taps: np.ndarray[Any, Any],
    taps_of_class: np.ndarray[Any, Any],
    phases: np.ndarray[Any, Any],
    part_rows: int,
    part_columns: int,
    stacked: bool,
    values: np.ndarray[Any, Any],
    instruction_set: str,
    sweeps: int,
    layout: int,
    /,
) -> int: ...
def largest_of_symbol(
    taps: np.ndarray[Any, Any],
    taps_of_class: np.ndarray[Any, Any],
    phases: np.ndarray[Any, Any],
    groups: int,
    part_rows: int,
    part_columns: int,
    stacked: bool,
    floor: float,
    instruction_set: str,
    sweeps: int,
    /,
) -> tuple[float, int]: ...
def lowered_blocks(
    blocks: np.ndarray[Any, Any],
    level: float,
    lowered: np.ndarray[Any, Any],
    stats: np.ndarray[Any, Any],
    instruction_set: str,
    sweeps: int,
    layout: int,
    /,
) -> None: ...
def lowered_symbol(
    taps: np.ndarray[Any, Any],
    taps_of_class: np.ndarray[Any, Any],
    phases: np.ndarray[Any, Any],
    part_rows: int,
    part_columns: int,
    stacked: bool,
    level: float,
    lowered: np.ndarray[Any, Any],
    stats: np.ndarray[Any, Any],
    instruction_set: str,
    sweeps: int,
    layout: int,
    /,
) -> None: ...
def test_gram(
    coefficients: np.ndarray[Any, Any],
    phases: np.ndarray[Any, Any],
    first_cells: np.ndarray[Any, Any],
    level: float,
    steps: int,
    quotients: np.ndarray[Any, Any],
    below: np.ndarray[Any, Any],
    vectors: np.ndarray[Any, Any],
    instruction_set: str,
    /,
) -> None: ...
