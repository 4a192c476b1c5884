"""Plants mistakes into transformers' DeBERTa and asks `deberta-ref compare` and `verify` what is wrong.

    cargo build --release
    python tools/measure/mistakes.py                      # all of them, then the table and the counts
    python tools/measure/mistakes.py --only scale -v      # those whose name holds "scale"
    python tools/measure/mistakes.py --clean 40           # clean dumps of random sizes instead, and single elements

Each model is run right in f64 and wrong in f32 (some in bf16 or f16). What it computes is dumped in three kinds, as people
have them: `full`, every step; `hooks`, what modules return; `outputs`, hidden states, attentions and logits. Which tensor is
the first wrong one is not asked of our program: a tensor is *touched* where the wrong run differs in any bit from the right
run in the same precision, and *clear* where it is ten times as far from f64 as that one is. The first divergent tensor has to
be touched, and to stand, in the order in which PyTorch computed, no later than the first clear one.

Exit code 1 where a bar is missed: the first tensor right always; the cause right in nine of ten listed mistakes (full dumps);
no wrong cause with a confidence of one half or more.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools" / "goldens"), str(ROOT / "tools")]

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import mistakes_clean  # noqa: E402
import mistakes_known  # noqa: E402
import mistakes_listed  # noqa: E402
import mistakes_models as models  # noqa: E402
import mistakes_unlisted  # noqa: E402
from dump_activations import DTYPES, STEPS, about, dump, run_model  # noqa: E402

KINDS = ("full", "hooks", "outputs")
COMMANDS = ("compare", "verify")
OUTPUTS = ("hidden_states.", "attentions.", "last_hidden_state", "logits", "start_logits", "end_logits")
CLEAR, CONFIDENT, ENOUGH = 10.0, 0.5, 0.9


def is_output(name):
    return name.startswith(OUTPUTS)


def belongs(name, kind, inputs):
    if name in inputs or kind == "full":
        return True
    return is_output(name) if kind == "outputs" else not is_output(name) and name.rsplit(".", 1)[-1] not in STEPS


def bare(name):
    return name.removeprefix("deberta.") if name else name


def in_order(names):
    """The recorded tensors in the order in which PyTorch computed them, outputs beside what they are copies of. Which of the
    two projections of the relative rows comes first is nobody's concern: that to keys, here."""
    steps = [n for n in names if not is_output(n)]
    at = {bare(n): float(i) for i, n in enumerate(steps)}
    for query in [n for n in at if n.endswith("pos_query_proj")]:
        key = query.replace("pos_query_proj", "pos_key_proj")
        if key in at and at[key] > at[query]:
            at[key], at[query] = at[query], at[key]
    end = float(len(steps))

    def place(name):
        head, _, number = name.partition(".")
        if head == "hidden_states":
            source = "embeddings" if number == "0" else f"encoder.layer.{int(number) - 1}"
            if number == "1":
                source = "encoder.conv" if "encoder.conv" in at else source
            return at[source] + 0.5
        if head == "attentions":
            return at[f"encoder.layer.{number}.attention.self.probs"] + 0.5
        if is_output(name):
            return end + OUTPUTS.index(name)
        return at[bare(name)]

    return sorted(names, key=place)


@dataclass
class Truth:
    order: list  # names, as computed
    touched: set
    clear: set

    def window(self, kind):
        """The touched tensors of this kind of dump up to and with the first clear one; None if nothing is clear."""
        names = [n for n in self.order if belongs(n, kind, ())]
        first = next((i for i, n in enumerate(names) if n in self.clear), None)
        return None if first is None else [n for n in names[: first + 1] if n in self.touched]


def same(a, b):
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def is_clear(wrong, right, exact):
    if wrong.shape != right.shape:
        return True
    wrong, right, exact = wrong.double(), right.double(), exact.double()
    numbers = exact > -6e4  # what is below is masked, whatever it is filled with
    if bool((wrong.isfinite() != right.isfinite())[numbers].any()):
        return True
    far, near = ((x - exact).abs()[numbers & x.isfinite()] for x in (wrong, right))
    if not far.numel() or not near.numel():
        return False
    return bool(far.max() > CLEAR * near.max() or far.pow(2).mean() > CLEAR**2 * near.pow(2).mean())


def truth(wrong, right, exact):
    common = [n for n in in_order([n for n in exact if n in right]) if n in wrong]
    touched = {n for n in common if not same(wrong[n], right[n])}
    return Truth(common, touched, {n for n in touched if is_clear(wrong[n], right[n], exact[n])})


class Bench:
    """A setting, its model directory, and its right runs, each made once."""

    def __init__(self, name, folder):
        self.setting, self.folder = models.SETTINGS[name], folder
        self.model = models.make(self.setting)
        self.inputs = models.inputs(self.setting, self.model)
        self.directory = folder / "model"
        self.directory.mkdir(parents=True)
        self.model.save_pretrained(self.directory)
        self.right = {}
        self.expected = folder / "expected.safetensors"
        self.exact = self.outputs(dump(copy.deepcopy(self.model).double(), self.inputs, self.expected))

    def outputs(self, written):
        drop = set(self.inputs) | ({n for n in written if n.startswith("hidden_states.")} if self.is_emd() else set())
        return {k: v for k, v in written.items() if k not in drop}

    def is_emd(self):
        return self.setting.head is models.EnhancedMaskedLM

    def right_run(self, dtype, stepped):
        key = (dtype, stepped)
        if key not in self.right:
            model = copy.deepcopy(self.model).to(DTYPES[dtype])
            model = models.in_steps(model) if stepped else model
            self.right[key] = self.outputs(dump(model, self.inputs, self.folder / "right.safetensors"))
        return self.right[key]

    def wrong_run(self, mistake, dtype):
        """Plants, runs, and writes the dump in three kinds."""
        model = copy.deepcopy(self.model).to(DTYPES[dtype])
        model = models.in_steps(model) if mistake.stepped else model
        run = run_model
        if mistake.mode == "inputs":

            def run(model, given):
                given = dict(given)
                mistake.plant(given)
                return run_model(model, given)
        else:
            mistake.plant(model)
        written = dump(model, self.inputs, self.folder / "full.safetensors", run=run)
        for kind in ("hooks", "outputs"):
            kept = {k: v for k, v in written.items() if belongs(k, kind, self.inputs)}
            save_file(kept, self.folder / f"{kind}.safetensors", metadata=about(model))
        return self.outputs(written)

    def false_alarms(self, binary):
        """What is said against the right runs, in transformers' own attention and in the one in steps."""
        for stepped in (False, True):
            self.right_run("f32", stepped)
            for command in COMMANDS:
                said, arguments = self.ask(binary, command, "right")
                if said["verdict"] != "within":
                    yield f"{arguments}: {said['verdict']}, first {said['first_divergent']}"

    def ask(self, binary, command, kind):
        actual = str(self.folder / f"{kind}.safetensors")
        if command == "compare":
            arguments = ["compare", str(self.expected), actual]
        else:
            arguments = ["verify", "--model", str(self.directory), "--golden", actual, *self.setting.options]
        done = subprocess.run([binary, *arguments, "--json"], capture_output=True, text=True)
        try:
            return json.loads(done.stdout), " ".join(arguments)
        except json.JSONDecodeError:
            return {"verdict": f"exit {done.returncode}: {done.stderr.strip()}", "first_divergent": None, "cause": None}, " ".join(arguments)


@dataclass
class Answer:
    group: str
    mistake: str
    setting: str
    dtype: str
    kind: str
    command: str
    verdict: str
    window: list
    first: str | None
    first_right: bool
    cause: str | None
    confidence: float
    cause_right: bool
    evidence: str
    arguments: str

    @property
    def confident_wrong(self):
        return self.cause is not None and self.confidence >= CONFIDENT and not self.cause_right

    def marks(self):
        first = "ok" if self.first_right else "WRONG TENSOR"
        if self.cause is None:
            return f"{first:13}no cause"
        word = "ok" if self.cause_right else "WRONG" if self.confident_wrong else "unsure"
        return f"{first:13}{word:7}{self.cause} {self.confidence:.2f}"


def answers(group, mistake, bench, name, dtype, binary):
    wrong = bench.wrong_run(mistake, dtype)
    known = truth(wrong, bench.right_run(dtype, mistake.stepped), bench.exact)
    for kind in KINDS:
        window = known.window(kind)
        if window is None:
            yield None, kind
            continue
        for command in COMMANDS:
            said, arguments = bench.ask(binary, command, kind)
            cause = said.get("cause") or {}
            yield Answer(
                group, mistake.name, name, dtype, kind, command, said["verdict"], window, said["first_divergent"],
                bare(said["first_divergent"]) in set(map(bare, window)), cause.get("name"), cause.get("confidence", 0.0),
                cause.get("name") in mistake.causes, cause.get("evidence", ""), arguments,
            ), kind  # fmt: skip


def groups():
    return {
        "listed": mistakes_listed.ALL, "known to the diagnosis": mistakes_known.ALL,
        "on no list": mistakes_unlisted.ALL,
    }  # fmt: skip


def keep_case(bench, answer, keep, number):
    """The files of a failed answer, to run again, and a line about it."""
    folder = keep / f"{number:03}"
    folder.mkdir(parents=True)
    for path in (bench.expected, bench.folder / f"{answer.kind}.safetensors"):
        shutil.copy(path, folder / ("actual.safetensors" if path != bench.expected else path.name))
    shutil.copytree(bench.directory, folder / "model")
    options = " ".join(bench.setting.options)
    line = f"{answer.mistake} [{answer.setting}, {answer.dtype}, {answer.kind}, {answer.command} {options}]: {answer.marks()}"
    detail = f"first {answer.first}, should be in {answer.window[:4]}; evidence: {answer.evidence}"
    (folder / "about.txt").write_text(f"{line}\n{detail}\n")
    with open(keep / "index.txt", "a") as index:
        index.write(f"{number:03} {line} | {detail}\n")


def is_failure(a):
    listed_miss = a.group == "listed" and a.kind == "full" and not a.cause_right
    return not a.first_right or a.confident_wrong or listed_miss


def share(items, test):
    items = list(items)
    return f"{sum(map(test, items))} of {len(items)}"


def summarise(found, unseen, alarms):
    print("\ngroup                    dump     command   first tensor   cause right    confident and wrong")
    for group in groups():
        for kind in KINDS:
            for command in COMMANDS:
                mine = [a for a in found if (a.group, a.kind, a.command) == (group, kind, command)]
                if mine:
                    print(
                        f"{group:25}{kind:9}{command:10}{share(mine, lambda a: a.first_right):15}"
                        f"{share(mine, lambda a: a.cause_right):15}{share(mine, lambda a: a.confident_wrong)}"
                    )
    full = [a for a in found if a.group == "listed" and a.kind == "full"]
    bars = {
        "the first divergent tensor is right in all": all(a.first_right for a in found),
        "the cause is right in nine of ten listed mistakes, full dumps": bool(full) and sum(a.cause_right for a in full) >= ENOUGH * len(full),
        "no confident wrong cause": not any(a.confident_wrong for a in found),
        "what is right passes": not alarms,
    }  # fmt: skip
    distinct = Counter(g for g, ms in groups().items() for m in ms if any(a.mistake == m.name and a.group == g for a in found))
    for alarm in alarms:
        print(alarm)
    print("\nmistakes:", ", ".join(f"{n} {g}" for g, n in distinct.items()), f"; {unseen} dumps in which rounding hides the mistake, not counted")
    for bar, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'} {bar}")
    return all(bars.values())


def plant_all(options):
    found, unseen, alarms, number = [], 0, [], 0
    with tempfile.TemporaryDirectory(prefix="mistakes-") as scratch:
        benches = {}
        for group, mistakes in groups().items():
            for mistake in mistakes:
                if options.only and not any(o.lower() in mistake.name.lower() for o in options.only):
                    continue
                for name in mistake.on[: options.settings]:
                    if name not in benches:
                        benches[name] = Bench(name, Path(scratch) / name)
                        alarms += (f"nothing planted [{name}] {alarm}" for alarm in benches[name].false_alarms(options.binary))
                    for dtype in mistake.dtypes:
                        for answer, kind in answers(group, mistake, benches[name], name, dtype, options.binary):
                            if answer is None:
                                unseen += 1
                                continue
                            found.append(answer)
                            bad = is_failure(answer)
                            if bad or options.verbose:
                                print(f"{mistake.name:44}{name:15}{dtype:5}{kind:8}{answer.command:8} {answer.marks()}", flush=True)
                            if bad and options.keep:
                                keep_case(benches[name], answer, options.keep, number)
                                number += 1
    if options.json:
        options.json.write_text(json.dumps([asdict(a) for a in found], indent=1))
    return summarise(found, unseen, alarms)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "deberta-ref")
    parser.add_argument("--only", action="append", metavar="TEXT", help="mistakes whose name holds TEXT; may be repeated")
    parser.add_argument("--settings", type=int, default=9, metavar="N", help="the first N settings of each mistake alone")
    parser.add_argument("--clean", type=int, metavar="N", help="N clean models of random sizes instead of mistakes")
    parser.add_argument("--seed", type=int, default=1, help="of the clean models")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the files of what failed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every answer")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what went right too")
    options = parser.parse_args()
    if not options.binary.exists():
        sys.exit(f"{options.binary} does not exist: build it with `cargo build --release`, or name it with --binary")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    good = mistakes_clean.measure(options) if options.clean else plant_all(options)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
