"""Times programs that run DeBERTa side by side: the same weights, the same inputs, the same two threads, in turn.

    tools/bench/peers/run                                          # set-up, then everything
    tools/bench/peers/run --models v3-base --shapes 1x128 --repeat 5
    tools/bench/peers/run --report                                 # only write the page, from what was measured so far

For each model and shape every program first computes the inputs, and its last_hidden_state is compared with PyTorch's at the
positions that exist; one that differs by more than {limit} is not timed. Then they take turns: in each round each program runs
once, and so does a matrix product of OpenBLAS, so that a busy spell of the machine meets them all. Each is given {settle} s of
silence before its turn, for the threads of the one before to fall asleep, and passes shorter than {short} s get one that is not
timed first. Results go to target/bench/results.json, where a later run of the same model and shape replaces them, so that a
benchmark can be run in pieces; then docs/performance.md and its picture are written from all of them.

A whole run takes hours, most of it PyTorch's and candle's on the large models; --seconds bounds each model and shape.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import date

import numpy
from safetensors.numpy import load_file, save_file

import report
from programs import PROGRAMS, ROOT, WORK, Failure, Team, first_result

MODELS = ("v3-small", "v3-base", "v3-large", "v2-xlarge")
SHAPES = ("1x16", "1x128", "1x512", "8x128", "8x512", "ragged", "1x4096")
VOCABULARY = 128_000
# States are normalized, so they are of size one and f32 rounds them by 1e-7; a wrong term moves them by whole units.
LIMIT = 1e-3
SETTLE = 0.1
SHORT = 0.15


def prepare(model):
    """The directory of a model with random weights, and its ONNX export beside it."""
    folder = WORK / "models" / model
    if not (folder / "config.json").exists():
        say(f"{model}: writing random weights")
        run([ROOT / "target/release/deberta-ref", "random-model", model, "--output", folder])
    onnx = folder.with_name(f"{model}-onnx")
    if not (onnx / "model.onnx").exists():
        say(f"{model}: exporting to ONNX")
        run([sys.executable, ROOT / "tools/bench/peers/export_onnx.py", folder, onnx])
    return folder


def lengths(shape):
    if shape == "ragged":
        lines = (ROOT / "tools/bench/peers/lengths.txt").read_text().splitlines()
        return [int(line) for line in lines if not line.startswith("#")]
    size, length = map(int, shape.split("x"))
    return [length] * size


def write_inputs(shape):
    """Random tokens, and a mask where the batch is ragged; returns the file and the mask."""
    file = WORK / f"{shape}.safetensors"
    counts = numpy.array(lengths(shape))
    mask = (numpy.arange(counts.max()) < counts[:, None]).astype(numpy.int64)
    ids = numpy.random.default_rng(7).integers(4, VOCABULARY, mask.shape) * mask
    tensors = {"input_ids": ids} if mask.all() else {"input_ids": ids, "attention_mask": mask}
    save_file(tensors, file)
    return file, mask.astype(bool)


def agree(team, mask):
    """What each program computes, its peak memory, and its distance from PyTorch's; those that differ or fail are left out."""
    outputs, measured, failed = {}, {}, dict(team.failed)
    for name in list(team.names):
        worker = team.worker(name)
        try:
            worker.reset_peak()
            first = team.run(name)
            second = team.run(name) if first < 20 or PROGRAMS[name][1] == "compiled" else first
            peak = worker.peak()
            worker.ask(do="save", file=str(WORK / "output.safetensors"))
        except Failure as failure:
            failed[name] = str(failure)
            team.names.remove(name)
            continue
        outputs[name] = load_file(WORK / "output.safetensors")["last_hidden_state"][mask]
        measured[name] = {"first": first, "last": second, "peak": peak, "seconds": []}
    reference = outputs.get("PyTorch", next(iter(outputs.values()), None))
    for name, output in outputs.items():
        apart = float(numpy.abs(output - reference).max()) if output.shape == reference.shape else float("inf")
        measured[name]["apart"] = apart
        if not apart <= LIMIT:
            failed[name] = f"computes something else: it differs by {apart:.2g}"
            team.names.remove(name)
            del measured[name]
    return measured, failed


def rounds(team, measured, repeat, seconds):
    """Rounds of one pass each, until there are `repeat` or the time is up; the products of the same rounds."""
    products, start = [], time.perf_counter()
    for count in range(repeat):
        for name in team.names:
            time.sleep(SETTLE)
            if measured[name]["last"] < SHORT:
                team.run(name)
            took = team.run(name)
            measured[name]["last"] = took
            measured[name]["seconds"].append(took)
        if "deberta-ref" in team.names:
            time.sleep(SETTLE)
            team.product()
            products.append(team.product())
        spent = time.perf_counter() - start
        if spent + spent / (count + 1) > seconds:
            break
    return products


def bench_shape(team, shape, arguments):
    file, mask = write_inputs(shape)
    team.inputs(file)
    measured, failed = agree(team, mask)
    products = rounds(team, measured, arguments.repeat, arguments.seconds)
    operations = team.operations() if "deberta-ref" in team.names else None
    line = ", ".join(f"{name} {1000 * statistics.median(m['seconds']):.1f}" for name, m in measured.items())
    rate = report.PRODUCT_OPERATIONS / statistics.median(products) / 1e9 if products else 0
    say(f"  {shape:<7} ms: {line}; sgemm {rate:.0f} GFLOP/s")
    for name, reason in failed.items():
        say(f"          {name}: {reason}")
    return {"programs": measured, "products": products, "operations": operations, "failed": failed}


def bench_model(model, arguments, results):
    folder = prepare(model)
    team = Team(arguments.programs, folder)
    entry = results["models"].setdefault(model, {"shapes": {}, "load": {}, "first": {}})
    entry["load"] |= team.load_seconds
    entry["weights"] = (folder / "model.safetensors").stat().st_size
    say(f"{model}: loaded in " + ", ".join(f"{name} {s:.2f} s" for name, s in team.load_seconds.items()))
    names = list(team.names)
    try:
        for shape in arguments.shapes:
            team.names = list(names)
            entry["shapes"][shape] = bench_shape(team, shape, arguments) | {"commit": commit(), "date": str(date.today())}
            save(results)
    finally:
        team.close()


def bench_first(model, arguments, results):
    """First results of cold processes, in turn. The files are in the page cache, as they were just written or read."""
    folder, (file, _) = prepare(model), write_inputs("1x16")
    found = {name: [] for name in arguments.programs if name != "PyTorch compiled"}
    for _ in range(arguments.first):
        for name, seconds in found.items():
            try:
                seconds.append(first_result(name, folder, file))
            except Failure as failure:
                say(f"{model}: {name}: {failure}")
    entry = results["models"].setdefault(model, {"shapes": {}, "load": {}, "first": {}})
    entry["first"] |= {name: statistics.median(s) for name, s in found.items() if s}
    say(f"{model}: first result after " + ", ".join(f"{n} {s:.2f} s" for n, s in entry["first"].items()))
    save(results)


def load():
    file = WORK / "results.json"
    return json.loads(file.read_text()) if file.exists() else {"models": {}}


def save(results):
    beside = WORK / "results.json.new"
    beside.write_text(json.dumps(results, indent=1))
    beside.rename(WORK / "results.json")


def commit():
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def run(command):
    subprocess.run([str(part) for part in command], check=True)


def say(words):
    print(words, flush=True)


def listed(known):
    def parse(text):
        unknown = [name for name in text.split(",") if not known(name)]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return text.split(",")

    return parse


def is_shape(name):
    size, _, length = name.partition("x")
    return name == "ragged" or size.isdigit() and length.isdigit() and int(size) * int(length) > 0


def main():
    words = __doc__.format(limit=LIMIT, settle=SETTLE, short=SHORT)
    parser = argparse.ArgumentParser(prog="run", description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=listed(MODELS.__contains__), default=list(MODELS), metavar="A,B", help="default: all")
    parser.add_argument("--shapes", type=listed(is_shape), default=list(SHAPES), metavar="BxL,…", help="default: all; `ragged` is one")
    parser.add_argument("--programs", type=listed(PROGRAMS.__contains__), default=list(PROGRAMS), metavar="A,B", help="default: all")
    parser.add_argument("--repeat", type=int, default=9, help="rounds at most (default 9)")
    parser.add_argument("--seconds", type=float, default=120, help="of rounds a model and shape at most, but one round (default 120)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="also time N first results of cold processes")
    parser.add_argument("--only-first", action="store_true", help="time nothing but first results")
    parser.add_argument("--report", action="store_true", help="time nothing; write the page from what was measured")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        parser.error("--repeat is at least 1")
    WORK.mkdir(parents=True, exist_ok=True)
    results = load()
    if not arguments.report:
        results["machine"] = report.machine()
        for model in arguments.models:
            if not arguments.only_first:
                bench_model(model, arguments, results)
            if arguments.first:
                bench_first(model, arguments, results)
    report.write(results)


if __name__ == "__main__":
    main()
