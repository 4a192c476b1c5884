"""Clean dumps of models of random sizes, whole and of outputs alone: they have to pass. Then one element of one head is moved: it has to fail."""

import copy
import json
import random
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.models.deberta_v2 import modeling_deberta_v2 as hf

import mistakes_models as models
from dump_activations import DTYPES, about, dump

TIMES = 10.0
# Tensors whose last axes belong to heads; the first axis of what is returned by `of_head` is the head's elements.
OF_HEADS = ("c2c", "c2p", "p2c", "scores", "probs", "query_proj", "key_proj", "value_proj", "self")

OUTPUTS = ("hidden_states.", "attentions.", "last_hidden_state")


def draw(seed):
    r = random.Random(seed)
    hidden, heads = r.choice([(32, 2), (48, 3), (64, 4), (96, 3), (128, 2), (192, 6), (256, 4), (384, 6), (768, 12)])
    length = r.choice([7, 12, 19, 33, 64, 100, 128, 256, 512])
    if hidden * length > 768 * 128:
        length = r.choice([64, 128]) if hidden > 200 else length
    if seed % 12 == 0:
        hidden, heads, length = 768, 12, 512
    config = {
        **models.RELATIVE, **models.sizes(hidden, heads, layers=r.choice([1, 2, 4]), vocab=r.choice([61, 503])),
        "share_att_key": r.random() < 0.6, "position_buckets": r.choice([-1, 8, 32, 256]), "max_position_embeddings": 512,
        "norm_rel_ebd": r.choice(["layer_norm", "none"]), "conv_kernel_size": r.choice([0, 0, 3]),
        "pos_att_type": r.choice([["p2c", "c2p"], ["p2c", "c2p"], ["c2p"], ["p2c"]]),
    }  # fmt: skip
    if config["position_buckets"] < 0:
        config["max_relative_positions"] = r.choice([16, 128])
    return models.Setting(
        hf.DebertaV2Model, config, length, r.choice([1, 2]), r.choice([0.02, 0.1, 0.5]), r.choice([0.6, 1.0, 1.5]),
        r.random() < 0.7, 0.0, seed,
    )  # fmt: skip


def ask(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments), "--json"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.strip() else {"verdict": done.stderr.strip(), "first_divergent": None}


def head_of(tensor, name, heads, head):
    """A view of the elements of one head."""
    if tensor.dim() == 4:
        return tensor[:, head]
    return tensor.unflatten(-1, (heads, -1))[..., head, :]


def move_one(written, exact, heads, r, size):
    """Moves one element of one head of one tensor by TIMES the noise of that head; returns the name, or None."""
    names = [n for n in exact if n.rsplit(".", 1)[-1] in OF_HEADS and ".self" in n]
    name, head = r.choice(names), r.randrange(heads)
    dtype = written[name].dtype
    changed = written[name].double().clone()
    part, true = head_of(changed, name, heads, head), head_of(exact[name].double(), name, heads, head)
    error = (part - true).abs()
    noise = error.max() if size == "largest" else error.pow(2).mean().sqrt()
    # A masked score is none, nor is the probability of one.
    places = (true != 0 if name.endswith("probs") else true > -6e4).nonzero()
    at = tuple(int(i) for i in places[r.randrange(len(places))])
    part[at] = true[at] + TIMES * noise * r.choice([-1, 1])
    return name, {**written, name: changed.to(dtype if dtype == torch.float32 else torch.float32)}


def one(seed, dtype, options, scratch):
    """(what failed of the clean dump, {(command, size of the noise): found or not})"""
    setting, r = draw(seed), random.Random(seed + 1)
    model = models.make(setting)
    inputs = models.inputs(setting, model)
    expected, actual, moved = (scratch / f"{n}.safetensors" for n in ("expected", "actual", "moved"))
    directory = scratch / "model"
    model.save_pretrained(directory)
    exact = dump(copy.deepcopy(model).double(), inputs, expected)
    written = dump(model.to(DTYPES[dtype]), inputs, actual)
    what = f"{dtype} hidden {setting.config['hidden_size']} length {setting.length} table {setting.table} gain {setting.gain}"
    outputs = scratch / "outputs"
    save_file({k: v for k, v in written.items() if k in inputs or k.startswith(OUTPUTS)}, str(outputs), metadata=about(model))
    failed = []
    for command in (
        ("compare", expected, actual), ("verify", "--model", directory, "--golden", actual), ("compare", expected, outputs),
    ):  # fmt: skip
        said = ask(options.binary, *command)
        if said["verdict"] != "within":
            failed.append(f"{command[0]} {Path(command[-1]).name}: {said['verdict']}, {said['first_divergent']}")
    found = {}
    for size in ("largest", "rms"):
        name, tensors = move_one(written, exact, setting.config["num_attention_heads"], r, size)
        save_file(tensors, str(moved), metadata=about(model))
        for command in (("compare", expected), ("verify", "--model", directory, "--golden")):
            said = ask(options.binary, *command, moved)
            first = said["first_divergent"]
            found[command[0], size] = ((first or "").removeprefix("deberta.") == name, name, first)
    return what, failed, found


def measure(options):
    clean, passed, counts = 0, 0, defaultdict(lambda: [0, 0])
    for seed in range(options.seed, options.seed + options.clean):
        for dtype in ("f32", "bf16", "f16"):
            with tempfile.TemporaryDirectory(prefix="clean-") as scratch:
                what, failed, found = one(seed, dtype, options, Path(scratch))
            clean, passed = clean + 1, passed + (not failed)
            for (command, size), (seen, name, said) in found.items():
                counts[command, size][0] += seen
                counts[command, size][1] += 1
                if not seen and (size == "largest" or options.verbose):
                    print(f"seed {seed}: {what}: {command}: one element of {name} by {TIMES:.0f} times the {size} error of its head: {said} instead", flush=True)
            if failed or options.verbose:
                print(f"seed {seed}: {what}: {'; '.join(failed) or 'within'}", flush=True)
    print(f"\nclean dumps within: {passed} of {clean}")
    for (command, size), (seen, n) in sorted(counts.items()):
        print(f"one element moved by {TIMES:.0f} times the {size} error of its head, found by {command}: {seen} of {n}")
    good = passed == clean and all(seen == n for (_, size), (seen, n) in counts.items() if size == "largest")
    print("met" if good else "MISSED", "a clean dump passes, and one element of one head by ten times the noise fails")
    return good
