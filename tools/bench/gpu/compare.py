"""Times DeBERTa on one GPU beside Hugging Face's eager attention, FlashDeBERTa and disentangled-flash.

    tools/bench_gpu                                         # everything: about half an hour
    tools/bench_gpu --models v3-base --precisions bf16 --lengths 512,8192 --repeat 5
    tools/bench_gpu --report docs/gpu/DATE-CARD-bench.json  # only write the page and the picture again

Whole models (random weights of the published sizes) and attention alone, batches of {tokens} tokens at every length, and ragged batches
whose lengths are the eighths of the longest. A program whose result is another than Hugging Face's is not timed. Programs take
turns. Writes docs/gpu/DATE-CARD-bench.json, .md and .svg. Exit code 2 and one sentence where something is missing.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parents[3]
PACK = Path(os.environ.get("DEBERTA_BENCH_PACK", ROOT / "target/gpu-bench"))
MODELS = {
    "v3-base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "v3-large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
    # For trying the program itself; not a published size.
    "tiny": dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96),
}
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
RAGGED = (512, 2048, 8192)
TOKENS = 16384
TURNS = 3
# Root mean square of the difference from Hugging Face's result, in units of that result's own: rounding in these types stays
# far below, a wrong term far above.
LIMITS = {"f16": 0.02, "bf16": 0.1}


def fail(sentence):
    print(f"bench_gpu: {sentence}", file=sys.stderr)
    sys.exit(2)


def make_model(name, folder):
    """A model of that size with weights under which states keep their size and scores differ by about one."""
    import torch
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        **MODELS[name], vocab_size=128_100 if name != "tiny" else 97, relative_attention=True, position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0,
        max_relative_positions=-1, max_position_embeddings=512, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-7,
    )  # fmt: skip
    model = DebertaV2Model(config)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=g)
            if "LayerNorm" in parameter_name:
                parameter.copy_(0.02 * noise + (1 if parameter_name.endswith("weight") else 0))
            elif "embeddings" in parameter_name or parameter.dim() < 2:
                parameter.copy_(noise if parameter.dim() > 1 else 0.02 * noise)
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    model.save_pretrained(folder / name)
    return folder / name


def shapes(lengths, ragged, tokens):
    """Names and lengths of the sequences of each batch."""
    for length in lengths:
        yield f"{max(1, tokens // length)}x{length}", [length] * max(1, tokens // length)
    for longest in ragged:
        eighths = [max(1, longest * k // 8) for k in range(1, 9)]
        yield f"ragged {longest}", eighths * max(1, tokens // sum(eighths))


def batch(counts, vocabulary, device):
    import torch

    counts = torch.tensor(counts)
    mask = torch.arange(int(counts.max()))[None] < counts[:, None]
    g = torch.Generator().manual_seed(11)
    ids = torch.randint(4, vocabulary, mask.shape, generator=g) * mask
    return ids.to(device), mask.to(device)


def apart(found, reference, mask):
    """The distance of the existing rows, as a share of the reference's size; infinite where there is none."""
    if found.dim() == 3:
        found = found[mask.to(found.device)]
    found, reference = found.float().cpu(), reference.float().cpu()
    if found.shape != reference.shape:
        return float("inf")
    return float((found - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def run_batch(calls, mask, precision, turns, repeat, device):
    """Each program's seconds in turns, its memory, and its distance from Hugging Face's result."""
    from programs import Failure, timed

    measured, failed, reference = {}, {}, None
    for turn in range(turns):
        for name, call in calls.items():
            if name in failed:
                continue
            try:
                seconds, peak, result = call(repeat) if name == "deberta-ref" else timed(call, repeat, device)
            except Exception as failure:  # any failure of a peer is a result, and is reported as one
                failed[name] = f"{'' if isinstance(failure, Failure) else type(failure).__name__ + ': '}{failure}"[:300]
                continue
            if turn == 0:
                result = getattr(call, "unpack", lambda r: r)(result)
                rows = result[mask.to(result.device)] if result.dim() == 3 else result
                reference = rows.float().cpu() if reference is None else reference
                distance = apart(rows, reference, mask)
                if not distance <= LIMITS[precision]:
                    failed[name] = f"computes something else: it is {distance:.2g} of the result's size away"
                    continue
                measured[name] = {"seconds": [], "bytes": peak, "apart": distance}
            measured[name]["seconds"] += seconds
    return {"programs": {k: v for k, v in measured.items() if k not in failed}, "failed": failed}


def whole_calls(arguments, model, directory, precision, ours):
    """What runs each program on a batch."""
    from programs import OURS, WHOLE, Failure

    runs, failed = {}, {}
    for name in arguments.programs:
        try:
            if name == OURS:
                ours.whole(directory, precision, arguments.replay)
            else:
                runs[name] = WHOLE[name](model)
        except Exception as failure:
            failed[name] = f"{'' if isinstance(failure, Failure) else type(failure).__name__ + ': '}{failure}"[:300]

    def calls(ids, mask):
        bound = {name: (lambda run=run: run(ids, mask)) for name, run in runs.items()}
        if OURS in arguments.programs and OURS not in failed:
            ours.whole_inputs(ids, mask)

            def own(repeat):
                answer = ours.whole_times(repeat)
                return answer["seconds"], answer["bytes"], ours.whole_states()

            bound[OURS] = own
        return bound, failed

    return calls


def attention_calls(arguments, model, mask, precision, ours):
    from programs import ATTENTION, OURS, Given

    given, bound, failed = Given(model, mask), {}, {}
    for name in arguments.programs:
        if name == OURS:

            def own(repeat):
                answer, context = ours.attention(given, precision, repeat)
                return answer["seconds"], answer["bytes"], context

            bound[name] = own
        else:
            try:
                bound[name] = ATTENTION[name](given)
            except Exception as failure:
                failed[name] = f"{type(failure).__name__}: {failure}"[:300]
    return bound, failed


def measure(arguments, device, ours, results, save):
    import torch
    from programs import DTYPES
    from transformers import DebertaV2Model

    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for name in arguments.models:
            directory = make_model(name, Path(work))
            config = MODELS[name]
            for precision in arguments.precisions:
                options = {"dtype": DTYPES[precision], "attn_implementation": "eager"}
                model = DebertaV2Model.from_pretrained(directory, **options).eval().to(device)
                whole = whole_calls(arguments, model, directory, precision, ours)
                for shape, counts in shapes(arguments.lengths, arguments.ragged, arguments.tokens):
                    ids, mask = batch(counts, model.config.vocab_size, device)
                    for what in ("whole", "attention"):
                        if what == "attention" and name == "v3-large":
                            continue
                        with torch.inference_mode():
                            calls, failed = whole(ids, mask) if what == "whole" else attention_calls(arguments, model, mask, precision, ours)
                            entry = run_batch(calls, mask, precision, arguments.turns, arguments.repeat, device)
                        entry["failed"] = failed | entry["failed"]
                        entry |= {"what": what, "model": name, "precision": precision, "shape": shape, "lengths": counts}
                        entry["operations"] = report.operations(config, counts, what)
                        results["runs"].append(entry)
                        print(report.line(entry), flush=True)
                        save()
                del model, whole


def machine(device):
    import importlib.metadata as metadata

    import torch

    def version(package):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
    try:
        driver = subprocess.run(smi, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        driver = None
    packages = ("torch", "triton", "transformers", "flashdeberta", "disentangled-flash")
    card = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    return {"card": card, "driver": driver, "versions": {package: version(package) for package in packages}}


def commit():
    if (PACK / "commit").exists():
        return (PACK / "commit").read_text().strip().replace("\n", " ")
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def some_of(known, kind=str):
    def parse(text):
        values = [kind(part) for part in text.split(",") if part]
        unknown = [v for v in values if known and v not in known]
        if unknown or any(kind is int and v < 1 for v in values):
            raise argparse.ArgumentTypeError(f"{text}: known are {', '.join(map(str, known)) if known else 'numbers above 0'}")
        return values

    return parse


def parse(arguments=None):
    words = __doc__.format(tokens=TOKENS)
    parser = argparse.ArgumentParser(prog="bench_gpu", description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = ("Hugging Face", "FlashDeBERTa", "disentangled-flash", "deberta-ref")
    parser.add_argument("--models", type=some_of(MODELS), default=["v3-base", "v3-large"], metavar="A,B", help="v3-base, v3-large, tiny")
    parser.add_argument("--precisions", type=some_of(LIMITS), default=list(LIMITS), metavar="A,B", help="f16, bf16")
    parser.add_argument("--programs", type=some_of(programs), default=list(programs), metavar="A,B", help=", ".join(programs))
    parser.add_argument("--lengths", type=some_of((), int), default=list(LENGTHS), metavar="L,…", help="default: 128 to 8192")
    parser.add_argument("--ragged", type=some_of((), int), default=list(RAGGED), metavar="L,…", help="the longest of ragged batches")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens a batch")
    parser.add_argument("--turns", type=int, default=TURNS, help="rounds")
    parser.add_argument("--repeat", type=int, default=5, help="passes a round")
    parser.add_argument("--worker", default=str(PACK / "bin/gpu_worker"), help="the program that is ours")
    parser.add_argument("--work", default=None, metavar="DIR", help="where the random weights go for the while (3 GB)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/gpu", metavar="DIR")
    parser.add_argument("--replay", action="store_true", help="ours replays its passes (CUDA graphs)")
    parser.add_argument("--cpu", action="store_true", help="try this program out without a GPU; what it then writes says so")
    parser.add_argument("--report", type=Path, metavar="FILE", help="time nothing; write the page from this file")
    return parser.parse_args(arguments)


def main():
    arguments = parse()
    if arguments.report:
        report.write(json.loads(arguments.report.read_text()), arguments.report)
        return
    try:
        import safetensors  # noqa: F401
        import torch
        import transformers
    except ImportError as missing:
        fail(f"{sys.executable} has no package `{missing.name}`; name an interpreter that has in PYTHON")
    if not arguments.cpu and not torch.cuda.is_available():
        fail("PyTorch finds no GPU; --cpu tries the program out without one")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from programs import OURS, Failure, Ours

    device = torch.device("cpu" if arguments.cpu else "cuda")
    results = {"measured": not arguments.cpu, "date": str(datetime.date.today()), "commit": commit(), "replay": arguments.replay, **machine(device), "peaks": {}, "runs": []}
    card = "".join(c if c.isalnum() else "-" for c in results["card"]).strip("-").lower()
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"{results['date']}-{card}-bench.json"

    def save():
        file.with_suffix(".new").write_text(json.dumps(results, indent=1) + "\n")
        file.with_suffix(".new").rename(file)

    with tempfile.TemporaryDirectory(dir=arguments.work) as exchange:
        ours = Ours([arguments.worker], exchange) if OURS in arguments.programs else None
        try:
            if ours:
                for precision in arguments.precisions:
                    results["peaks"][precision] = ours.ask(do="product", precision=precision, side=64 if arguments.cpu else 8192)["rate"]
            measure(arguments, device, ours, results, save)
        except Failure as failure:
            fail(str(failure))
        finally:
            if ours:
                ours.close()
    report.write(results, file)


if __name__ == "__main__":
    main()
