"""`python -m convspectra` in processes that are forked off a server, which has imported what commands import.

An interpreter takes most of a second until it has imported that, a fork takes a moment. What is about the
start of an interpreter (its encoding, `PYTHONPATH`, streams that are closed) is tested with a fresh one.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

PATIENCE = 300  # seconds that a command may take
STATUS = 4  # bytes of an exit status


def fresh(*arguments, cwd, env=None, stdout=subprocess.PIPE):
    """The same by an interpreter of its own; output as bytes."""
    command = [sys.executable, "-m", "convspectra", *map(str, arguments)]
    options = {"stdout": stdout, "stderr": subprocess.PIPE, "timeout": PATIENCE, "check": False}
    return subprocess.run(command, cwd=cwd, env=env, **options)


def forked(*arguments, cwd, env=None, stdout=None):
    """A `CompletedProcess` of the command, output as bytes; `stdout`: a descriptor to write to instead."""
    reading, writing = zip(os.pipe(), os.pipe(), strict=True)
    ends = [writing[0] if stdout is None else stdout, writing[1]]
    request = {"arguments": [*map(str, arguments)], "cwd": str(cwd), "env": {**(env or os.environ)}}
    server = _server()
    socket.send_fds(server, [json.dumps(request).encode()], ends)
    for end in writing:
        os.close(end)
    with ThreadPoolExecutor(2) as threads:
        output, errors = threads.map(_all_of, reading)
    status = int.from_bytes(server.recv(STATUS, socket.MSG_WAITALL), "big", signed=True)
    return subprocess.CompletedProcess(request["arguments"], status, output, errors)


def _all_of(end):
    with open(end, "rb") as file:  # noqa: PTH123  # of a descriptor
        return file.read()


@cache
def _server():
    """This end of a socket to the server, which ends when it is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, __file__], stdin=theirs, stdout=subprocess.DEVNULL)

    def end():
        ours.close()
        process.wait(PATIENCE)

    atexit.register(end)
    return ours


def _serve(channel):
    """Fork for each request and tell its status; returns in the forks alone, which are set up as asked."""
    while True:
        message, ends, *_ = socket.recv_fds(channel, 1 << 20, 2)
        if not message:
            sys.exit()
        child = os.fork()
        if not child:
            _become(json.loads(message), ends)
            return
        for end in ends:
            os.close(end)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        channel.sendall(status.to_bytes(STATUS, "big", signed=True))


def _become(request, ends):
    null = os.open(os.devnull, os.O_RDONLY)
    for stream, end in enumerate([null, *ends]):
        os.dup2(end, stream)
        os.close(end)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    signal.alarm(PATIENCE)


if __name__ == "__main__":
    import array_api_compat.numpy  # noqa: F401
    import onnx.inliner  # noqa: F401
    from typer.testing import CliRunner

    import convspectra.models.formats.onnx.writer
    import convspectra.network
    import convspectra.report.files
    import convspectra.report.html  # noqa: F401
    from convspectra.cli.app import app

    CliRunner().invoke(app, ["info"])  # what typer imports when a command runs
    gc.freeze()  # what is there by now no fork looks through when it ends
    with socket.socket(fileno=os.dup(0)) as listening:
        _serve(listening)
    runpy.run_module("convspectra", run_name="__main__", alter_sys=True)
