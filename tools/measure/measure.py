"""Measures `deberta-ref run` against the reference programs on configurations and inputs drawn at random.

    python tools/measure/measure.py --count 200 --seed 1          # a table of what failed, and a summary
    python tools/measure/measure.py --microsoft DIR --count 100   # against Microsoft's newest code instead of transformers
    python tools/measure/measure.py --seed 57 --count 1 --keep D  # one draw again, its files left in D
    python tools/measure/measure.py --full-size v3-base           # load, time and peak memory at 1×512

Under transformers 4.46 the profile is hf-4. Limits: f64 within 1e-10 of the reference in f64; f32 within three times the
reference's own distance from its f64. Exit 1 if any is broken. Nothing is written into the repository.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1] / "goldens")]

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import full_size  # noqa: E402
from common import PRECISIONS, REPOSITORY, save  # noqa: E402
from compare import judge  # noqa: E402
from references import HuggingFace, Microsoft  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/deberta-ref")
    p.add_argument("--count", type=int, default=100, help="how many draws")
    p.add_argument("--seed", type=int, default=1, help="the seed of the first draw; the next has the next number")
    p.add_argument("--head", help="this head alone")
    p.add_argument("--microsoft", metavar="DIR", help="measure against Microsoft's newest code, in this folder")
    p.add_argument("--weights", help="this weight format alone: safetensors, sharded, bin")
    p.add_argument("--keep", type=Path, help="leave the files in this folder")
    p.add_argument("--json", type=Path, help="write every verdict to this file")
    p.add_argument("--attention", help="passed on to the program")
    p.add_argument("--verbose", action="store_true", help="a line for each draw")
    p.add_argument("--full-size", choices=full_size.CONFIGURATIONS, help="measure loading and memory at full size instead")
    p.add_argument("--length", type=int, default=512, help="tokens for --full-size")
    return p.parse_args()


def run_ours(options, folder, head, profile, precision):
    """The outputs of one run of the program; a text if it failed."""
    out = folder / f"ours.{precision}.safetensors"
    command = [
        str(options.binary), "run", "--model", str(folder), "--inputs", str(folder / f"inputs.{precision}.safetensors"),
        "--outputs", str(out), "--precision", precision, "--head", head, "--profile", profile, "--hidden-states", "--attentions",
    ]  # fmt: skip
    if options.attention:
        command += ["--attention", options.attention]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        return f"exit {done.returncode}: {done.stderr.strip()[-300:]}"
    return load_file(out)


def measure(seed, options, reference, folder):
    """The draw with this seed: its description and its verdicts, or None and why it says nothing (the reference failed)."""
    drawn = reference.draw(seed, options.head)
    what = drawn[0]
    what["weights"] = options.weights or what["weights"]
    try:
        inputs, outputs = reference.outputs(drawn, folder)
    except Exception as error:  # what the reference cannot run is no measure of ours, but it is counted and shown
        return what, None, f"{type(error).__name__}: {str(error)[:150]}"
    what["inputs"] = {k: [str(v.dtype).removeprefix("torch."), *v.shape] for k, v in inputs["f64"].items()}
    verdicts = []
    for precision in PRECISIONS:
        save(folder / f"inputs.{precision}.safetensors", inputs[precision])
        ours = run_ours(options, folder, what["head"], reference.profile, precision)
        if isinstance(ours, str):
            return what, [], ours
        verdicts += judge(ours, outputs, precision, reference.complete)
    return what, verdicts, ""


def report(what, verdicts, trouble):
    rest = {k: v for k, v in what.items() if k not in ("seed", "head", "config", "inputs")}
    print(f"\ndraw {what['seed']}: {what['head']} {rest}\n  inputs {what.get('inputs')}\n  {json.dumps(what['config'])}")
    if trouble:
        print(f"  {trouble}")
    for v in [v for v in verdicts if not v.ok][:12]:
        mark = " (within 4 units in the last place)" if v.only_rounding else ""
        print(f"  {v.precision} {v.tensor:28} error {v.error:9.2e}  limit {v.limit:9.2e}  {v.reason}{mark}")


def summarise(all_verdicts):
    print(f"\n{'precision':10}{'outputs':>9}{'within':>8}{'rounding':>10}{'beyond':>8}{'worst error':>13}{'worst / limit':>15}")
    for precision in PRECISIONS:
        mine = [v for v in all_verdicts if v.precision == precision]
        if not mine:
            continue
        beyond = [v for v in mine if not v.ok and not v.only_rounding]
        ratios = [v.error / v.limit for v in mine if v.limit > 0]
        lucky = sum(v.only_rounding for v in mine)
        print(
            f"{precision:10}{len(mine):9}{sum(v.ok for v in mine):8}{lucky:10}{len(beyond):8}"
            f"{max(v.error for v in mine):13.2e}{max(ratios, default=0):15.3g}"
        )


def main():
    options = arguments()
    if not options.binary.exists():
        sys.exit(f"{options.binary} does not exist: build it with `cargo build --release`, or name it with --binary")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    if options.full_size:
        sys.exit(0 if full_size.measure(options) else 1)
    reference = Microsoft(options.microsoft) if options.microsoft else HuggingFace()
    everything, counts, records = [], Counter(), []
    for seed in range(options.seed, options.seed + options.count):
        with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
            folder = (options.keep / f"draw-{seed}") if options.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            what, verdicts, trouble = measure(seed, options, reference, folder)
        if verdicts is None:
            counts["the reference failed"] += 1
            print(f"draw {seed}: the reference failed ({trouble}); not counted")
            continue
        bad = bool(trouble) or any(not v.ok for v in verdicts)
        hard = bool(trouble) or any(not v.ok and not v.only_rounding for v in verdicts)
        counts["beyond" if hard else "rounding alone" if bad else "within"] += 1
        everything += verdicts
        records.append({**what, "trouble": trouble, "verdicts": [vars(v) for v in verdicts]})
        if bad:
            report(what, verdicts, trouble)
        elif options.verbose:
            print(f"draw {seed}: {what['head']}: within, {len(verdicts)} outputs")
    summarise(everything)
    print("draws:", ", ".join(f"{v} {k}" for k, v in counts.items()))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1))
    sys.exit(1 if counts["beyond"] or counts["rounding alone"] else 0)


if __name__ == "__main__":
    main()
