"""The C++ core, behind `_solvers/native.py`; absent where no compiler was at hand at installation."""
