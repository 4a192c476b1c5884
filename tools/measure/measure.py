"""Measures `deberta-ref run` against Hugging Face transformers on configurations and inputs drawn at random.

    python tools/measure/measure.py --count 200 --seed 1          # a table of what failed, and a summary
    python tools/measure/measure.py --seed 57 --count 1 --keep D  # one draw again, its files left in D
    python tools/measure/measure.py --full-size v3-base           # load, time and peak memory at 1×512

Limits: f64 within 1e-10 of transformers in f64; f32 within three times transformers' own distance from its f64. Exit 1 if
any is broken. Nothing is written into the repository.
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
import hf  # noqa: E402
from common import PRECISIONS, REPOSITORY, save  # noqa: E402
from compare import judge  # noqa: E402
from hf_cases import Case, Run  # noqa: E402
from sample import HEADS, draw  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/deberta-ref")
    p.add_argument("--count", type=int, default=100, help="how many draws")
    p.add_argument("--seed", type=int, default=1, help="the seed of the first draw; the next has the next number")
    p.add_argument("--head", choices=HEADS, help="this head alone")
    p.add_argument("--keep", type=Path, help="leave the files in this folder")
    p.add_argument("--json", type=Path, help="write every verdict to this file")
    p.add_argument("--attention", help="passed on to the program")
    p.add_argument("--verbose", action="store_true", help="a line for each draw")
    p.add_argument("--full-size", choices=full_size.CONFIGURATIONS, help="measure loading and memory at full size instead")
    p.add_argument("--length", type=int, default=512, help="tokens for --full-size")
    return p.parse_args()


def run_ours(options, folder, head, precision):
    """The outputs of one run of the program; a text if it failed."""
    out = folder / f"ours.{precision}.safetensors"
    command = [
        str(options.binary), "run", "--model", str(folder), "--inputs", str(folder / f"inputs.{precision}.safetensors"),
        "--outputs", str(out), "--precision", precision, "--head", head, "--hidden-states", "--attentions",
    ]  # fmt: skip
    if options.attention:
        command += ["--attention", options.attention]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        return f"exit {done.returncode}: {done.stderr.strip()[-300:]}"
    return load_file(out)


def measure(seed, options, folder):
    """The draw with this seed: its description and its verdicts, or None and why it says nothing (the reference failed)."""
    head, config, build, weights, dtype, std = draw(seed, options.head)
    case = Case(f"draw-{seed}", head, config, "", {}, weights, dtype, std=std)
    what = {"seed": seed, "head": head, "weights": weights, "dtype": dtype, "std": std, "config": config}
    try:
        hf.write_model(case, folder, seed)
        model = hf.read_model(case, folder)
        run = Run(build(model.config), "")
        what["inputs"] = {k: list(v.shape) for k, v in run.inputs.tensors.items()}
        reference = {}
        for precision, kind in PRECISIONS.items():
            tensors = hf.inputs_in(run, kind)
            save(folder / f"inputs.{precision}.safetensors", tensors)
            reference[precision] = hf.forward(hf.read_model(case, folder).to(kind), tensors, False)[0]
    except Exception as error:  # what transformers cannot run is no measure of ours, but it is counted and shown
        return what, None, f"{type(error).__name__}: {str(error)[:150]}"
    verdicts = []
    for precision in PRECISIONS:
        ours = run_ours(options, folder, head, precision)
        if isinstance(ours, str):
            return what, [], ours
        verdicts += judge(ours, reference, precision)
    return what, verdicts, ""


def report(what, verdicts, trouble):
    options = {k: v for k, v in what["config"].items()}
    print(f"\ndraw {what['seed']}: {what['head']}, {what['weights']} {what['dtype']}, std {what['std']}, inputs {what.get('inputs')}")
    print(f"  {json.dumps(options)}")
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
    everything, counts, records = [], Counter(), []
    for seed in range(options.seed, options.seed + options.count):
        with tempfile.TemporaryDirectory(prefix="measure-") as scratch:
            folder = (options.keep / f"draw-{seed}") if options.keep else Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            what, verdicts, trouble = measure(seed, options, folder)
        if verdicts is None:
            counts["the reference failed"] += 1
            print(f"draw {seed}: transformers failed ({trouble}); not counted")
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
