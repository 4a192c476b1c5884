"""Makes fixtures/microsoft: what Microsoft's own code computes.

    python tools/goldens/microsoft.py --newest DIR --release DIR

--newest: a checkout of github.com/microsoft/DeBERTa (commit c794b711ed10633251dd049babefb7c2a5435565 or later): profile
`microsoft`. --release: the unpacked wheel of `deberta==0.1.12` from PyPI: profile `microsoft-2021`. Each folder holds `DeBERTa/`.
"""

import argparse
import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

import microsoft_code as code
import microsoft_tables
from common import FIXTURES, PRECISIONS, fill, max_difference, save, to_precision, write_manifest
from microsoft_cases import all_cases
from record import recording

SEED = 31300
PREFIX = {"microsoft": "", "microsoft-2021": "2021-"}
STEPS = {"microsoft": code.NewestSteps, "microsoft-2021": code.ReleaseSteps}


def build(library, case, seed=None):
    config = library.inner.ModelConfig.from_dict(case.config)
    model = library.models[case.head](config, num_labels=case.num_labels)
    return fill(model, seed) if seed is not None else model


def write_model(library, case, folder, seed):
    """model_config.json and the weights, under Microsoft's names."""
    model = build(library, case, seed)
    (folder / "model_config.json").write_text(json.dumps(case.config, indent=1) + "\n")
    if case.weights == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save(folder / "model.safetensors", model.state_dict())


def read_weights(folder):
    path = folder / "pytorch_model.bin"
    return torch.load(path, weights_only=True) if path.exists() else load_file(folder / "model.safetensors")


def read_model(library, case, run, folder, profile):
    """The model of one run. The code of 2021 has no pre-training models; a base run takes the encoder out of whatever it has."""
    state = read_weights(folder)
    if run.head == "base" and profile == "microsoft-2021":
        model = library.inner.DeBERTa(library.inner.ModelConfig.from_dict(case.config))
        state = {k.removeprefix("deberta."): v for k, v in state.items() if k.startswith("deberta.")}
    else:
        model = build(library, case)
    if hasattr(model, "bert"):
        state = {("bert." + k.removeprefix("deberta.") if k.startswith("deberta.") else k): v for k, v in state.items()}
    missing, surplus = model.load_state_dict(state, strict=False)
    allowed = {"embeddings.position_embeddings.weight"} | {"pooler.dense.weight", "pooler.dense.bias"}
    surplus = [k for k in surplus if k.split("deberta.")[-1].split("bert.")[-1] not in allowed]
    assert not missing and (profile != "microsoft" or not surplus), f"{case.name}: {missing} {surplus}"
    assert not surplus, f"{case.name}: {surplus}"
    model = model.eval()
    return getattr(model, "deberta", model) if run.head == "base" else model


def base_outputs(model, tensors, profile, trace):
    """Encoder states without the embeddings, as Microsoft's list has them; attentions; embeddings."""
    arguments = (tensors["input_ids"], tensors["attention_mask"], tensors.get("token_type_ids"))
    terms = SimpleNamespace(**vars(model.config))
    skip = ("encoder",)  # its output is a list; the states are recorded one by one
    attention = type(model.encoder.layer[0].attention.self)
    watch = recording(model, terms, attention, STEPS[profile], skip) if trace else nullcontext({})
    with watch as recorded:
        out = model(*arguments, return_att=True, position_ids=tensors.get("position_ids"))
    states, attentions = (out["hidden_states"], out["attention_matrices"]) if isinstance(out, dict) else out
    named = {f"hidden_states.{i}": t for i, t in enumerate(states)}
    named |= {f"attentions.{i}": t for i, t in enumerate(attentions)}
    named["last_hidden_state"] = states[-1]
    if isinstance(out, dict):
        named["embeddings"], named["position_embeddings"] = out["embeddings"], out["position_embeddings"]
        recorded.pop("embeddings", None)
    return named, recorded


def masked_lm_outputs(model, tensors):
    passes = []
    original = model.lm_predictions.emd_context_layer

    def watched(*args, **kwargs):
        passes.extend(original(*args, **kwargs))
        return passes

    model.lm_predictions.emd_context_layer = watched
    out = model(
        tensors["input_ids"], tensors["attention_mask"], tensors["labels"], position_ids=tensors.get("position_ids"),
        attention_mask=tensors.get("decoder_attention_mask"),
    )  # fmt: skip
    return {"logits": out["logits"], "loss": out["loss"], **{f"emd_outputs.{i}": t for i, t in enumerate(passes)}}


def head_outputs(head, model, tensors):
    if head == "enhanced-masked-lm":
        return masked_lm_outputs(model, tensors)
    names = {"input_mask": "attention_mask", "type_ids": "token_type_ids", "position_ids": "position_ids", "labels": "labels"}
    given = {theirs: tensors[ours] for theirs, ours in names.items() if ours in tensors}
    out = model(tensors["input_ids"], **given)
    if isinstance(out, tuple):
        return dict(zip(("logits", "loss"), out))
    return {"logits": out["logits"], "loss": out["loss"]} | ({"replaced": out["labels"]} if "labels" in out else {})


def outputs(library, case, run, folder, profile, dtype, trace):
    """The outputs, and every intermediate if `trace`, of one run in one precision."""
    tensors = to_precision(run.inputs.tensors, dtype)
    model = read_model(library, case, run, folder, profile).to(dtype)
    with torch.no_grad(), code.float_keeps_double():
        if run.head == "base":
            return base_outputs(model, tensors, profile, trace)
        named = head_outputs(run.head, model, tensors)
    return {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}, {}


def make_run(library, profile, case, name, run, folder):
    results, files = {}, {}
    for precision, dtype in PRECISIONS.items():
        named, trace = outputs(library, case, run, folder, profile, dtype, precision in run.trace)
        results[precision] = named
        assert not set(named) & set(trace), set(named) & set(trace)
        path = folder / f"{PREFIX[profile]}{name}.{precision}.safetensors"
        save(path, {**to_precision(run.inputs.tensors, dtype), **named, **trace})
        files[precision] = f"{case.name}/{path.name}"
    return {
        "name": f"{case.name}/{PREFIX[profile]}{name}",
        "model": case.name,
        "head": run.head,
        "profile": profile,
        "covers": "; ".join((case.covers, run.covers)),
        "golden": files,
        "traced": list(run.trace),
        "inputs": sorted(run.inputs.tensors),
        "f32_to_f64": {k: max_difference(v, results["f64"][k]) for k, v in results["f32"].items()},
    }


def make_case(libraries, case, root, seed):
    folder = root / case.name
    folder.mkdir(parents=True)
    write_model(libraries["microsoft"], case, folder, seed)
    entries = []
    for name, run in case.runs.items():
        entries += [make_run(libraries[p], p, case, name, run, folder) for p in run.profiles]
    print(f"  {case.name}: {len(entries)} runs")
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", required=True, help="folder with Microsoft's newest code")
    parser.add_argument("--release", required=True, help="folder with the wheel of deberta 0.1.12, unpacked")
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = FIXTURES / "microsoft"
    shutil.rmtree(root, ignore_errors=True)
    entries = []
    # One library after the other: both are called DeBERTa. The classes stay usable after the next import.
    libraries = {"microsoft-2021": code.load(options.release), "microsoft": code.load(options.newest)}
    for number, case in enumerate(all_cases()):
        entries += make_case(libraries, case, root, SEED + number)
    entries += microsoft_tables.embedding_sharing(libraries["microsoft"], root, SEED + 100)
    entries += microsoft_tables.attention(libraries["microsoft"], root, SEED + 200)
    microsoft_tables.buckets(libraries, root)
    header = {
        "command": "python tools/goldens/microsoft.py --newest DIR --release DIR",
        "reference": {
            "microsoft": "github.com/microsoft/DeBERTa, DeBERTa/deberta and DeBERTa/apps/models, da_utils.py of commit c794b711ed10633251dd049babefb7c2a5435565",
            "microsoft-2021": "PyPI deberta 0.1.12",
        },
        "versions": {"torch": torch.__version__.split("+")[0]},
        "seed": SEED,
        "f32_to_f64": "per output, the reference's own max |f32 − f64|",
    }
    write_manifest(root, header, entries)


if __name__ == "__main__":
    main()
