"""Makes fixtures/hf4: what transformers 4.46.3 computes on model directories and inputs of fixtures/hf.

    python tools/goldens/hf4.py     # in an environment of its own: see requirements-hf4.txt

Since 4.47 a query that is padding attends to everything alike; before, to nothing. The goldens hold both kinds of case: those where the
two versions are equal, and those where they differ by whole units.
"""

import json
import shutil

import torch
import transformers
from safetensors.torch import load_file
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta

import hf
from common import FIXTURES, PRECISIONS, max_difference, save, write_manifest
from hf_cases import V3, Case, Run, sizes
from inputs import Inputs

PROFILE = hf.PROFILE
# Run → which precisions hold every intermediate.
RUNS = {
    "base-v3/golden": ("f64",),
    "base-v3/no-mask": (),
    "base-v3/left": (),
    "base-v3/inside": (),
    "base-v3/masked-row": ("f64",),
    "base-v3/keys-mask": (),
    "base-v3/long": (),
    "base-v2-xlarge/golden": ("f64",),
    "base-v2-xlarge/masked-row": (),
    "base-c2p-clamp/golden": (),
    "base-p2c-odd-buckets/golden": (),
    "base-everything/golden": (),
    "masked-lm-legacy/golden": (),
    "sequence-classification-none/masked-row": (),
    "token-classification/golden": (),
    "question-answering/golden": (),
    "multiple-choice/golden": (),
}
# A file as 4.46 writes it, and 5 does not: the untied decoder shares `cls.predictions.bias`, and has no bias of its own.
UNTIED = Case(
    "masked-lm-untied", "masked-lm", {**V3, **sizes(2, 11, 23, 29, layers=1), "tie_word_embeddings": False},
    "tie_word_embeddings false: a decoder.weight of its own, its bias is cls.predictions.bias",
    {"golden": lambda c: Run(Inputs(c, 6000, 2, 7).ids().labels(0, c.vocab_size, ignored=(1, 2, 8)), "labels with −100")},
)  # fmt: skip


def read_model(entry, dtype):
    folder = FIXTURES / "hf" / entry["model"]
    model = hf.HEADS[entry["head"]].from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    return model.eval().to(dtype)


def make_run(entry, traced, root):
    folder = root / entry["model"]
    folder.mkdir(parents=True, exist_ok=True)
    run = entry["name"].split("/")[1]
    outputs, files, moved = {}, {}, {}
    for precision, dtype in PRECISIONS.items():
        newer = load_file(FIXTURES / "hf" / entry["golden"][precision])
        tensors = {k: newer[k] for k in entry["inputs"]}
        named, trace = hf.forward(read_model(entry, dtype), tensors, precision in traced)
        named = {k: v for k, v in named.items() if k in newer}
        outputs[precision] = named
        path = folder / f"{run}.{precision}.safetensors"
        save(path, {**tensors, **named, **trace})
        files[precision] = f"{entry['model']}/{path.name}"
        if precision == "f64":
            moved = {k: max_difference(v, newer[k]) for k, v in named.items()}
    return {
        **{k: entry[k] for k in ("name", "head", "covers", "inputs")},
        "model": f"../hf/{entry['model']}",
        "profile": PROFILE,
        "golden": files,
        "traced": list(traced),
        "f32_to_f64": {k: max_difference(v, outputs["f64"][k]) for k, v in outputs["f32"].items()},
        "to_hf-5": moved,
    }


def main():
    assert transformers.__version__.startswith("4.46"), transformers.__version__
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    root = FIXTURES / "hf4"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    newer = {e["name"]: e for e in json.loads((FIXTURES / "hf/manifest.json").read_text())["cases"]}
    entries = [make_run(newer[name], traced, root) for name, traced in RUNS.items()]
    entries += hf.make_case(UNTIED, hf.SEED + 100, root)
    header = {
        "command": "python tools/goldens/hf4.py",
        "reference": "Hugging Face transformers, models/deberta_v2, model.eval(), on the model directories and inputs of fixtures/hf",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "f32_to_f64": "per output, the reference's own max |f32 − f64|",
        "to_hf-5": "per output, max |this − transformers 5.23.0| in f64: zero up to rounding, or the disagreement that profile hf-4 is for",
    }
    write_manifest(root, header, entries)


if __name__ == "__main__":
    main()
