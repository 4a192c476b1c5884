"""Random configurations and inputs for Microsoft's code, under its own names."""

import random

from inputs import Inputs
from microsoft_cases import config, decoder_mask, some_labels

HEADS = (
    "base", "enhanced-masked-lm", "replaced-token-detection", "sequence-classification", "token-classification", "multiple-choice",
)  # fmt: skip


def settings(r, head):
    heads, head_size = r.choice([1, 2, 3, 4]), r.choice([3, 5, 7, 8, 11])
    positions = r.choice([37, 64, 100])
    buckets, maximum = r.choice([-1, 3, 4, 6, 8, 16]), r.choice([-1, 11, 12, 23, 50])
    chosen = {
        "max_position_embeddings": positions, "position_buckets": buckets, "max_relative_positions": maximum,
        "position_biased_input": r.random() < 0.35, "type_vocab_size": r.choice([0, 0, 2, 3]),
        "norm_rel_ebd": r.choice(["layer_norm", "none"]), "share_att_key": r.random() < 0.5,
        "pos_att_type": r.choice(["p2c|c2p", "p2c|c2p", "c2p|p2c", "C2P|P2C", "c2p", "none"]),
        "relative_attention": r.random() < 0.9, "hidden_act": r.choice(["gelu", "gelu", "relu", "tanh", "swish", "sigmoid", "linear"]),
    }  # fmt: skip
    if r.random() < 0.3:
        chosen |= {"conv_kernel_size": r.choice([3, 5]), "conv_act": r.choice(["tanh", "gelu"]), "conv_groups": r.choice([1, heads])}
    width = heads * head_size
    # The decoder adds the position table to the states: another embedding_size fails unless the input is position-biased.
    if r.random() < 0.3 and (chosen["position_biased_input"] or head not in ("enhanced-masked-lm",)):
        chosen["embedding_size"] = r.choice([width + 3, 5])
    if r.random() < 0.5:
        chosen["pooling"] = {"hidden_size": width, "hidden_act": r.choice(["gelu", "tanh"]), "dropout": 0}
    return config(heads, head_size, r.choice([2, 2, 3]), r.choice([17, 29, 48]), r.choice([41, 97]), **chosen)


def inputs_for(r, c, head, seed, num_labels):
    choices = 3 if head == "multiple-choice" else None
    length = min(c.max_position_embeddings, r.choice([1, 2, 5, 13, 37, 90]))
    inputs = Inputs(c, seed, r.choice([1, 2, 3]), length, choices).ids().mask(r.choice(["right", "left", "inside", "row"]))
    pretraining = head in ("enhanced-masked-lm", "replaced-token-detection")
    if c.type_vocab_size > 0 and not pretraining and r.random() < 0.7:
        inputs.types()
    if r.random() < 0.2:
        inputs.positions()
    count = inputs.tensors["input_ids"].numel()
    if pretraining:
        some_labels(inputs, sorted(r.sample(range(count), max(1, count // 5))))
        if head == "enhanced-masked-lm" and r.random() < 0.3:
            decoder_mask(inputs)
    elif head == "sequence-classification":
        inputs.float_labels((inputs.shape[0],)) if num_labels == 1 else inputs.labels(0, num_labels, (inputs.shape[0],))
    elif head == "token-classification":
        inputs.labels(0, num_labels, ignored=[i for i in range(count) if r.random() < 0.3])
    elif head == "multiple-choice":
        inputs.labels(0, choices, (inputs.shape[0],))
    return inputs


def draw(seed, head=None):
    r = random.Random(seed)
    head = head or r.choice(HEADS)
    what = {
        "seed": seed, "head": head, "config": settings(r, head), "weights": r.choice(["bin", "safetensors"]),
        "num_labels": r.choice([1, 2, 3, 5]) if head == "sequence-classification" else r.choice([2, 5]),
    }  # fmt: skip
    return what, lambda c: inputs_for(r, c, head, seed, what["num_labels"])
