"""The programs that are compared: how each is started, asked, and watched."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import workers  # noqa: E402
from workers import Failure  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
WORK = ROOT / "target" / "bench"
THREADS = 2

# Set on some machines for the sake of old versions of OpenBLAS; they slow a current one, so no program here sees them.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class Worker:
    """A process that answers requests, started anew or reused."""

    def __init__(self, command):
        environment = {name: value for name, value in os.environ.items() if name not in UNSET}
        environment |= dict.fromkeys(COUNTS, str(THREADS))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(WORK / "inductor")
        log = open(WORK / "workers.log", "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)

    def ask(self, **request):
        answer = workers.ask(self.process, request, ended=f"it ended (see {WORK / 'workers.log'})")
        (value,) = answer.values()
        return value

    def reset_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak(self):
        """The most memory resident since reset_peak, mapped files included, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def ours():
    return [str(ROOT / "target/release/examples/bench_worker"), str(THREADS)]


def python(which):
    return lambda: [sys.executable, str(HERE / "worker.py"), which, str(THREADS)]


def candle():
    return [str(WORK / "candle/release/candle-worker")]


# Name, command of the worker, how it is asked to run. Two programs of one command share a process.
PROGRAMS = {
    "deberta-ref": (ours, "fused"),
    "ONNX Runtime": (python("onnxruntime"), None),
    "PyTorch": (python("torch"), "eager"),
    "PyTorch compiled": (python("torch"), "compiled"),
    "candle": (candle, None),
}


class Team:
    """The workers of one model, loaded."""

    def __init__(self, names, model):
        self.workers, self.failed, self.load_seconds = {}, {}, {}
        for name in names:
            command = tuple(PROGRAMS[name][0]())
            if command in self.workers:
                continue
            worker = Worker(command)
            try:
                self.load_seconds[name] = worker.ask(do="load", model=str(model), onnx=f"{model}-onnx")
                self.workers[command] = worker
            except Failure as failure:
                self.failed[name] = str(failure)
                worker.close()
        self.names = [name for name in names if tuple(PROGRAMS[name][0]()) in self.workers]

    def worker(self, name):
        return self.workers[tuple(PROGRAMS[name][0]())]

    def inputs(self, file):
        for worker in self.workers.values():
            worker.ask(do="inputs", file=str(file))

    def run(self, name):
        return self.worker(name).ask(do="run", how=PROGRAMS[name][1])

    def operations(self):
        """The operations that a pass over the inputs must do, as crates/deberta-ref/src/bench/operations.rs counts them."""
        return self.worker("deberta-ref").ask(do="operations")

    def product(self):
        """Seconds of one product of OpenBLAS in our own process."""
        return self.worker("deberta-ref").ask(do="product")

    def close(self):
        for worker in self.workers.values():
            worker.close()


def first_result(name, model, inputs):
    """Seconds from nothing to the first result: start, import, load, one pass."""
    start = time.perf_counter()
    worker = Worker(PROGRAMS[name][0]())
    try:
        worker.ask(do="load", model=str(model), onnx=f"{model}-onnx")
        worker.ask(do="inputs", file=str(inputs))
        worker.ask(do="run", how=PROGRAMS[name][1])
        return time.perf_counter() - start
    finally:
        worker.close()
