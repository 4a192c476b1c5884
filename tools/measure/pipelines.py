#!/usr/bin/env python3
"""Asks `deberta-ref` and the pipelines of transformers the same things, and says where they differ.

    cargo build --release
    python tools/measure/pipelines.py make target/pipelines --spm spm.model --count 40 --seed 1    # transformers 5.23.0
    python4 tools/measure/pipelines.py answer target/pipelines --count 40 --seed 1                 # transformers 4.57.6
    python tools/measure/pipelines.py compare target/pipelines

`make` draws models with random weights and the vocabulary of a real model (128,000 pieces of DeBERTa-v3), texts, and runs
the pipelines on them; `answer` adds question answering, which transformers 5 has no more. `compare` runs the program.
Labels, words, spans and places have to be equal, scores within 1e-5. Where the reference's own scores of two neighbours in
a ranked list are closer than 1e-6, either order is taken; `compare` says how often. Answers of probability zero are left
out on both sides: which of them numpy lists is the processor's choice.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools" / "goldens"))

BOUND = 1e-5
TIE = 1e-6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "answer", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spm", type=Path)
    parser.add_argument("--count", type=int, default=40, help="inputs of each group")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "target/release/deberta-ref")
    args = parser.parse_args()
    {"make": make, "answer": answer, "compare": compare}[args.step](args)


def make(args):
    from pipeline_cases import groups, make_models

    args.folder.mkdir(parents=True, exist_ok=True)
    make_models(args.folder, args.spm, 128100, args.hidden, args.seed)
    ask(args, groups(random.Random(args.seed), args.count), "cases.jsonl")


def answer(args):
    from pipeline_cases import question_groups

    ask(args, question_groups(random.Random(args.seed), args.count), "answer.jsonl")


def ask(args, groups, name):
    from pipeline_cases import reference

    with open(args.folder / name, "w") as file:
        for group in groups:
            group["results"] = reference(args.folder, group)
            file.write(json.dumps(group, ensure_ascii=False) + "\n")
            print(group["task"], group["model"], group["arguments"], len(group["inputs"]), flush=True)


def compare(args):
    total = failed = swapped = 0
    worst = 0.0
    for name, further in [("cases.jsonl", []), ("answer.jsonl", ["--tokenizer-profile", "hf-4-fast"])]:
        path = args.folder / name
        if not path.exists():
            print(f"skipped: {path} is not there")
            continue
        for line in open(path):
            group = json.loads(line)
            results = run(args, group, further)
            shown = 0
            for given, expected, actual in zip(group["inputs"], group["results"], results, strict=True):
                total += 1
                judge = Judge(group["task"])
                judge.compare(expected, actual)
                worst = max(worst, judge.worst)
                swapped += judge.swapped
                if judge.found:
                    failed += 1
                    shown += 1
                    if shown <= 3:
                        print(f"{group['task']} {group['model']} {group['arguments']}\n  {json.dumps(given, ensure_ascii=False)}"
                              f"\n  {judge.found}")
    print(f"{total} cases, {failed} differ; the largest distance of a score is {worst:.1e}; {swapped} lists hold scores closer"
          f" than {TIE:g} in another order")
    sys.exit(1 if failed or not total else 0)


def run(args, group, further):
    command = [args.program, group["task"].replace("zero-shot", "classify"), "--model", args.folder / group["model"],
               *group["arguments"], "--jsonl", "-", *further]
    given = "".join(json.dumps(i) + "\n" for i in group["inputs"])
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(map(str, command))}: {done.stderr}")
        return [None] * len(group["inputs"])
    return [json.loads(line)["result"] for line in done.stdout.splitlines()]


class Judge:
    """Compares one result with the pipeline's."""

    def __init__(self, task):
        self.task, self.found, self.worst, self.swapped = task, None, 0.0, 0

    def compare(self, expected, actual):
        if actual is None:
            self.found = "refused"
            return
        if self.task == "answer":
            expected, actual = ([a for a in (r if isinstance(r, list) else [r]) if a["score"] != 0]
                                for r in (expected, actual))
        if self.task in ("fill-mask", "classify", "zero-shot", "answer"):
            actual = self.in_order_of(expected, actual)
        self.same(expected, actual, "")

    def same(self, expected, actual, path):
        if isinstance(expected, float) and isinstance(actual, float):
            self.worst = max(self.worst, abs(expected - actual))
            if not abs(expected - actual) <= BOUND:
                self.found = self.found or f"{path}: {expected}, found {actual}"
        elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
            for i, (e, a) in enumerate(zip(expected, actual)):
                self.same(e, a, f"{path}[{i}]")
        elif isinstance(expected, dict) and isinstance(actual, dict) and list(expected) == list(actual):
            for key in expected:
                self.same(expected[key], actual[key], f"{path}.{key}")
        elif expected != actual:
            self.found = self.found or f"{path}: {expected}, found {actual}"

    def in_order_of(self, expected, actual):
        """`actual` with neighbours swapped that the reference's scores hardly tell apart."""
        if isinstance(expected, dict) and "labels" in expected:
            key = list(zip(expected["labels"], expected["scores"]))
            ordered = self.reorder(key, list(zip(actual["labels"], actual["scores"])), lambda x: x[0], lambda x: x[1])
            return actual | {"labels": [l for l, _ in ordered], "scores": [s for _, s in ordered]}
        if isinstance(expected, list) and expected and isinstance(expected[0], list):
            return [self.in_order_of(e, a) for e, a in zip(expected, actual)] if len(expected) == len(actual) else actual
        if isinstance(expected, list) and expected and isinstance(actual, list):
            name = lambda x: json.dumps({k: v for k, v in x.items() if k != "score"})
            return self.reorder(expected, actual, name, lambda x: x["score"])
        return actual

    def reorder(self, expected, actual, name, score):
        ordered = list(actual)
        for i, e in enumerate(expected[: len(ordered)]):
            if name(ordered[i]) != name(e):
                for j in range(i + 1, len(ordered)):
                    if name(ordered[j]) == name(e) and abs(score(expected[i]) - score(expected[j])) < TIE:
                        ordered.insert(i, ordered.pop(j))
                        self.swapped += 1
                        break
        return ordered


main()
