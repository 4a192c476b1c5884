"""Directories of full size with random weights: do they load and run, in what time and memory?"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import DebertaV2Config, DebertaV2Model

from common import generator, save

RELEASED = {
    "hidden_act": "gelu", "max_position_embeddings": 512, "layer_norm_eps": 1e-7, "relative_attention": True,
    "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1, "position_biased_input": False, "type_vocab_size": 0, "vocab_size": 128100,
    "model_type": "deberta-v2",
}  # fmt: skip
# The config.json of the checkpoints that Microsoft published, as far as it matters here.
CONFIGURATIONS = {
    "v3-base": {**RELEASED, "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072},
    "v2-xlarge": {
        **RELEASED, "hidden_size": 1536, "num_attention_heads": 24, "num_hidden_layers": 24, "intermediate_size": 6144,
        "conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 64,
    },
}  # fmt: skip


def write_directory(folder, config):
    """Random weights, tensor after tensor; returns the size in bytes."""
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {f"deberta.{k}": v.shape for k, v in DebertaV2Model(DebertaV2Config(**config)).state_dict().items()}
    g = generator(1)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.empty(shape).normal_(0, 0.02, generator=g)
        weights[name] = noise.add_(1) if name.endswith("LayerNorm.weight") else noise
    save_file(weights, str(folder / "model.safetensors"))
    return sum(t.numel() * 4 for t in weights.values())


# A process inherits the peak of the one that starts it, so a small one has to: it prints seconds, peak and exit status.
STARTER = """
import json, os, sys, time
start = time.monotonic()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(json.dumps([time.monotonic() - start, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
"""


def run(command):
    """Seconds, peak resident bytes and exit status of a command."""
    done = subprocess.run([sys.executable, "-S", "-c", STARTER, *command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def reference_output(folder, inputs):
    """transformers in f32, the weights mapped, to compare with."""
    model = DebertaV2Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        start = time.monotonic()
        out = model(**inputs).last_hidden_state
        return out, time.monotonic() - start


def measure(options):
    with tempfile.TemporaryDirectory(prefix="full-size-") as scratch:
        folder = Path(scratch)
        weights = write_directory(folder, CONFIGURATIONS[options.full_size])
        length = options.length
        ids = torch.randint(0, 128100, (1, length), generator=generator(2))
        inputs = {"input_ids": ids, "attention_mask": torch.ones(1, length, dtype=torch.int64)}
        save(folder / "inputs.safetensors", inputs)
        out = folder / "ours.safetensors"
        command = [
            str(options.binary), "run", "--model", scratch, "--inputs", str(folder / "inputs.safetensors"),
            "--outputs", str(out), "--precision", "f32", "--head", "base",
        ]  # fmt: skip
        if options.attention:
            command += ["--attention", options.attention]
        seconds, peak, status = run(command)
        limit = 1.25 * weights + 600e6
        good = status == 0 and peak < limit
        print(
            f"{options.full_size} 1x{length} f32: exit {status}, {seconds:.1f} s with loading, peak {peak / 1e6:.0f} MB, "
            f"limit {limit / 1e6:.0f} MB (weights {weights / 1e6:.0f} MB): {'within' if good else 'BEYOND'}"
        )
        if status == 0:
            ours = load_file(out)["last_hidden_state"]
            theirs, their_seconds = reference_output(folder, inputs)
            error = (ours.double() - theirs.double()).abs().max().item()
            print(f"transformers: forward alone {their_seconds:.1f} s; max |ours − transformers|, both f32: {error:.2e}")
        return good
