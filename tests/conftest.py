"""Options and rules for all tests."""

from __future__ import annotations

import os
import signal
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # before NumPy and PyTorch are imported: the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# Beside busy processes an example may take any time: no deadline, no complaint that drawing one is slow.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tests")

# Which skips are expected, by a part of their reason: CONVSPECTRA_SKIPS names the set, and any other
# skip fails the run. Without it every skip is allowed.
EXPECTED = {
    "none": (),
    "full": ("CONVSPECTRA_DATA", "could not import 'lightning"),
    "numpy": (
        "CONVSPECTRA_DATA",
        "could not import 'torch'",
        "could not import 'lightning",
        "could not import 'jax",
        "could not import 'array_api_strict'",
        "could not import 'cvxpy'",
        "could not import 'dask",
        "could not import 'pyarrow",
        "could not import 'matplotlib'",
        "could not import 'onnxruntime'",
        "could not import 'selenium'",
        "could not import 'ml_dtypes'",
        "could not import 'sklearn",
        "README.md is not beside the tests",
    ),
}
EXPECTED["oldest"] = (
    "CONVSPECTRA_DATA",
    "could not import 'torch'",
    "could not import 'lightning",
    "could not import 'dask",
    "could not import 'selenium'",
    "could not import 'sklearn",
    "README.md is not beside the tests",
)
EXPECTED["plain"] = (*EXPECTED["numpy"], "the native core was not built")
_unexpected: list[str] = []


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew instead of comparing"
    )


def pytest_configure():
    # A shell lets its background commands ignore Ctrl-C, and so would the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def update_golden(request):
    return request.config.getoption("--update-golden")


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch on one thread: small tensors are slower on several, and sums depend on how they are shared."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_logreport(report):
    _note(report)


def pytest_collectreport(report):
    _note(report)


def _note(report):
    allowed = EXPECTED.get(os.environ.get("CONVSPECTRA_SKIPS", ""))
    if allowed is None or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(words in reason for words in allowed):
        _unexpected.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session, exitstatus):
    """The unexpected skips are the last lines, so that they are in the tail of a log."""
    result = yield  # the terminal's summary
    if hasattr(session.config, "workerinput"):
        return result  # the process that started this one has heard of its skips
    if _unexpected and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for line in _unexpected:
        print(f"unexpected skip: {line}", file=sys.stderr)
    return result
