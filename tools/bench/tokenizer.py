#!/usr/bin/env python3
"""Times our tokenizer against SentencePiece in C++ and Hugging Face's fast tokenizer, on the same text, in one run.

    cargo build --release -p deberta-tokenizer --example throughput -p deberta-ref
    python tools/bench/tokenizer.py MODEL_DIR TEXT_FILE

MODEL_DIR holds an spm.model. Needs sentencepiece and transformers (4.57 or 5). Every measurement is of its own process and
the fastest of five runs; they take turns, so that a busy spell of the machine hits them alike. Prints the ratios.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

REPEAT = 5
ROUNDS = 3
ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = ROOT / "target" / "release"


def fastest(run, text):
    best = float("inf")
    for _ in range(REPEAT):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return len(text.encode()) / 1e6 / best


def sentencepiece_cpp(model, text, lines):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=f"{model}/spm.model")
    return fastest(lambda: [processor.encode(line) for line in lines], text)


def hf_fast(model, text, lines):
    import transformers

    name = "DebertaV2Tokenizer" if transformers.__version__.startswith("5") else "DebertaV2TokenizerFast"
    tokenizer = getattr(transformers, name).from_pretrained(model)
    return fastest(lambda: tokenizer(lines, return_offsets_mapping=True), text)


def hf_backend(model, text, lines):
    """The tokenizers library alone, without what transformers does with its output."""
    import transformers

    name = "DebertaV2Tokenizer" if transformers.__version__.startswith("5") else "DebertaV2TokenizerFast"
    backend = getattr(transformers, name).from_pretrained(model).backend_tokenizer
    return fastest(lambda: backend.encode_batch(lines), text)


def ours(model, file, profile, threads):
    command = [TARGET / "examples" / "throughput", model, profile, file, str(threads), str(REPEAT)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["mb_per_s"]


def child(which, model, file, threads):
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--child", which, model, file]
    lines = subprocess.run(command, check=True, capture_output=True, env=environment).stdout.decode().split()
    return float(lines[-1])


def start_up(model, profile):
    command = [TARGET / "deberta-ref", "tokenize", "--model", model, "--profile", profile, "--text", "x"]
    best = float("inf")
    for _ in range(REPEAT):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def main():
    if sys.argv[1] == "--child":
        which, model, file = sys.argv[2:]
        text = pathlib.Path(file).read_text(encoding="utf-8")
        print(globals()[which](model, text, text.splitlines()))
        return
    model, file = sys.argv[1:]
    measurements = {
        "sentencepiece C++ from Python, 1 thread": lambda: child("sentencepiece_cpp", model, file, 1),
        "ours slow, 1 thread": lambda: ours(model, file, "slow", 1),
        "transformers fast batch, 2 threads": lambda: child("hf_fast", model, file, 2),
        "tokenizers library batch from Python, 2 threads": lambda: child("hf_backend", model, file, 2),
        "ours slow, 2 threads": lambda: ours(model, file, "slow", 2),
        "ours hf-4-fast, 2 threads": lambda: ours(model, file, "hf-4-fast", 2),
        "ours hf-5, 2 threads": lambda: ours(model, file, "hf-5", 2),
    }
    best = {}
    for _ in range(ROUNDS):
        for name, measure in measurements.items():
            best[name] = max(best.get(name, 0.0), measure())
    for name, speed in best.items():
        print(f"{name:<50} {speed:7.2f} MB/s")
    one = best["ours slow, 1 thread"] / best["sentencepiece C++ from Python, 1 thread"]
    print(f"slow against SentencePiece, 1 thread: {one:.2f}x (at least 1.0x)")
    for profile in ("slow", "hf-4-fast", "hf-5"):
        two = best[f"ours {profile}, 2 threads"] / best["transformers fast batch, 2 threads"]
        print(f"{profile} against transformers' fast tokenizer, 2 threads: {two:.2f}x (at least 1.5x)")
    for profile in ("slow", "hf-4-fast", "hf-5"):
        print(f"start-up, {profile}: {1000 * start_up(model, profile):.0f} ms (under 250 ms)")


if __name__ == "__main__":
    main()
