"""Makes fixtures/hf: model directories, and what Hugging Face transformers computes with them.

    python tools/goldens/hf.py              # all of it
    python tools/goldens/hf.py base-v3      # the named cases alone, without a manifest

The weights are written first, and the goldens come from the model that `from_pretrained` reads back from them.
"""

import json
import shutil
import sys

import torch
import transformers
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta

import hf_tables
from common import FIXTURES, PRECISIONS, fill, max_difference, save, to_precision, write_manifest
from hf_cases import all_cases
from record import recording

SEED = 20260
HEADS = {
    "base": deberta.DebertaV2Model,
    "masked-lm": deberta.DebertaV2ForMaskedLM,
    "sequence-classification": deberta.DebertaV2ForSequenceClassification,
    "token-classification": deberta.DebertaV2ForTokenClassification,
    "question-answering": deberta.DebertaV2ForQuestionAnswering,
    "multiple-choice": deberta.DebertaV2ForMultipleChoice,
}
PROFILE = "hf-5" if transformers.__version__ >= "5" else "hf-4"


def write_model(case, folder, seed):
    """The model directory: config.json as save_pretrained writes it, and the weights in the case's format."""
    config = transformers.DebertaV2Config(**case.config)
    model = fill(HEADS[case.head](config), seed, case.std).to(getattr(torch, case.dtype))
    shard = {"max_shard_size": "8KB"} if case.weights == "sharded" else {}
    model.save_pretrained(folder, **shard)
    if case.weights in ("bin", "both"):
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if case.weights == "bin":
        (folder / "model.safetensors").unlink()
    for path in folder.iterdir():
        path.chmod(0o644)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    written.update(case.rewrite)
    path.write_text(json.dumps({k: v for k, v in written.items() if v is not None or k not in case.rewrite}, indent=2) + "\n")


def read_model(case, folder):
    dtype = "dtype" if transformers.__version__ >= "5" else "torch_dtype"
    options = {dtype: torch.float32, "attn_implementation": "eager"}
    model, info = HEADS[case.head].from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), f"{case.name}: {info}"
    return model.eval()


def forward(model, tensors, trace):
    """The outputs under the contract's names, and the trace if it is wanted."""
    options = dict(output_hidden_states=True, output_attentions=True, return_dict=True)
    tensors = {k: v.clone() for k, v in tensors.items()}  # 4.x adds to inputs_embeds in place
    with torch.no_grad():
        if trace:
            with recording(model, model.config, deberta.DisentangledSelfAttention) as recorded:
                output = model(**tensors, **options)
        else:
            recorded, output = {}, model(**tensors, **options)
    named = {}
    for key, value in output.items():
        if isinstance(value, torch.Tensor):
            named[key] = value
        else:
            named.update({f"{key}.{i}": t for i, t in enumerate(value)})
    return named, recorded


def inputs_in(run, dtype):
    tensors = to_precision(run.inputs.tensors, dtype)
    # A mask keeps its own dtype; labels follow the model's unless the case says otherwise.
    if "attention_mask" in tensors:
        tensors["attention_mask"] = run.inputs.tensors["attention_mask"]
    if run.label_dtype == "f32" and "labels" in tensors and tensors["labels"].is_floating_point():
        tensors["labels"] = tensors["labels"].float()
    return tensors


def make_run(case, name, run, model, folder):
    """Writes `<name>.f64.safetensors` and `<name>.f32.safetensors`; returns the manifest's entry."""
    outputs, files = {}, {}
    for precision, dtype in PRECISIONS.items():
        tensors = inputs_in(run, dtype)
        named, trace = forward(model.to(dtype), tensors, precision in run.trace)
        if not run.attentions:
            named = {k: v for k, v in named.items() if not k.startswith("attentions.")}
        outputs[precision] = named
        path = folder / f"{name}.{precision}.safetensors"
        clash = set(named) & set(trace)
        assert not clash, f"{case.name}: {clash}"
        save(path, {**tensors, **named, **trace})
        files[precision] = f"{case.name}/{path.name}"
    return {
        "name": f"{case.name}/{name}",
        "model": case.name,
        "head": case.head,
        "profile": PROFILE,
        "covers": "; ".join(t for t in (case.covers, run.covers) if t),
        "golden": files,
        "traced": list(run.trace),
        "inputs": sorted(run.inputs.tensors),
        "f32_to_f64": {k: max_difference(v, outputs["f64"][k]) for k, v in outputs["f32"].items()},
    }


def make_case(case, seed, root):
    folder = root / case.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_model(case, folder, seed)
    entries = []
    for name, build in case.runs.items():
        model = read_model(case, folder)  # afresh: rounding back from f64 must not be relied on
        entries.append(make_run(case, name, build(model.config), model, folder))
    print(f"  {case.name}: {len(entries)} runs")
    return entries


def main(wanted):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    root = FIXTURES / "hf"
    if not wanted:
        shutil.rmtree(root, ignore_errors=True)
    entries = []
    for number, case in enumerate(all_cases()):
        if not wanted or case.name in wanted:
            entries += make_case(case, SEED + number, root)
    if wanted:
        return
    hf_tables.make(root)
    header = {
        "command": "python tools/goldens/hf.py",
        "reference": "Hugging Face transformers, models/deberta_v2, attn_implementation eager, model.eval()",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "seed": SEED,
        "f32_to_f64": "per output, the reference's own max |f32 − f64|; null where all of it is NaN",
    }
    write_manifest(root, header, entries)


if __name__ == "__main__":
    main(sys.argv[1:])
