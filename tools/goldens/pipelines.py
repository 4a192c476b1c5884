#!/usr/bin/env python3
"""Makes fixtures/pipelines: what the pipelines of transformers answer, on small models with random weights.

    python tools/goldens/pipelines.py            # transformers 5.23.0: everything but questions
    python4 tools/goldens/pipelines.py answer    # transformers 4.57.6, the last minor version with that pipeline

The models have the vocabulary of fixtures/tokenizer. `tools/measure/pipelines.py` asks many more things, with the real one.
"""

import json
import random
import sys
import tempfile

import transformers
from common import FIXTURES, save, sha256
from pipeline_cases import MODELS, common_config, groups, make_models, question_groups, reference

SEED = 20261125
HIDDEN = 16
VOCABULARY = 656
COUNT = 6
FOLDER = FIXTURES / "pipelines"
SPM = FIXTURES / "tokenizer" / "spm.model"


def close_call(result):
    """Whether what the list holds, or in which order, is decided by rounding or by the processor."""
    if isinstance(result, dict):
        scores = result.get("scores", [])
    elif result and isinstance(result[0], list):
        return any(close_call(r) for r in result)
    else:
        # Tokens and spans stand in the order of the text.
        ranked = result and isinstance(result[0], dict) and "entity" not in result[0] and "entity_group" not in result[0]
        scores = [r["score"] for r in result] if ranked else []
    # Of answers of probability zero numpy lists some, on each processor others.
    return any(0 < abs(a - b) < 1e-6 for a, b in zip(scores, scores[1:])) or 0 in scores


def main():
    answers = sys.argv[1:] == ["answer"]
    wanted = "4.57.6" if answers else "5.23.0"
    assert transformers.__version__ == wanted, f"transformers {wanted} makes these, not {transformers.__version__}"
    FOLDER.mkdir(exist_ok=True)
    manifest_path = FOLDER / "manifest.json"
    rng = random.Random(SEED + answers)
    with tempfile.TemporaryDirectory() as folder:
        if answers:
            manifest = json.loads(manifest_path.read_text())
            restore(folder, manifest)
            made = list(question_groups(rng, COUNT))
        else:
            kept = make_models(folder, SPM, VOCABULARY, HIDDEN, SEED)
            for name, tensors in kept.items():
                save(FOLDER / f"{name}.safetensors", tensors)
            models = {name: {"weights": f"{w}.safetensors", "config": c, "tokenizer_config": t}
                      for name, (w, c, t) in MODELS.items()}
            manifest = {"seed": SEED, "config": common_config(VOCABULARY, HIDDEN), "models": models}
            made = list(groups(rng, COUNT))
        for group in made:
            group["results"] = reference(folder, group)
            sure = [not close_call(r) for r in group["results"]]
            for key in ["inputs", "results"]:
                group[key] = [v for v, s in zip(group[key], sure) if s]
            del group["options"]
    name = "answer.jsonl" if answers else "cases.jsonl"
    with open(FOLDER / name, "w") as file:
        for group in made:
            file.write(json.dumps(group, ensure_ascii=False) + "\n")
    manifest.setdefault("transformers", {})[name] = transformers.__version__
    manifest["sha256"] = {p.name: sha256(p) for p in sorted(FOLDER.iterdir()) if p != manifest_path}
    manifest_path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    print(f"{sum(len(g['inputs']) for g in made)} cases in {len(made)} groups")


def restore(folder, manifest):
    """The model directories, from the fixture."""
    import shutil
    from pathlib import Path

    for name, model in manifest["models"].items():
        path = Path(folder) / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(manifest["config"] | model["config"]))
        tokenizer = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False} | model["tokenizer_config"]
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
        shutil.copy(SPM, path / "spm.model")
        shutil.copy(FOLDER / model["weights"], path / "model.safetensors")


main()
