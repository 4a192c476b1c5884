"""Random configurations, heads and inputs: what nobody wrote a test for. All of it is a function of one seed."""

import random

import torch

from inputs import Inputs

HEADS = (
    "base", "masked-lm", "sequence-classification", "token-classification", "question-answering", "multiple-choice",
)  # fmt: skip
ACTIVATIONS = (
    "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "gelu_accurate", "gelu_10", "quick_gelu", "relu",
    "relu2", "relu6", "tanh", "silu", "swish", "sigmoid", "mish", "linear", "leaky_relu", "hardswish", "laplace",
)  # fmt: skip


def bucket_options(r):
    """position_buckets and max_relative_positions, without the pairs that divide by the logarithm of one."""
    buckets = r.choice([-1, -1, 2, 3, 4, 5, 6, 8, 11, 16, 32])
    positions = r.choice([-1, -1, 3, 7, 12, 33, 64, 129])
    return buckets, positions


def relative_options(r, positions):
    buckets, maximum = bucket_options(r)
    effective = maximum if maximum > 0 else positions
    if buckets > 0 and effective - 1 <= buckets // 2:
        maximum = buckets + 3
    types = r.choice([None, [], ["c2p"], ["p2c"], ["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "C2P | P2C", "c2p"])
    options = {
        "relative_attention": r.random() < 0.85, "position_buckets": buckets, "max_relative_positions": maximum,
        "pos_att_type": types, "share_att_key": r.random() < 0.5, "norm_rel_ebd": r.choice(["layer_norm", "none", "layer_norm|x"]),
    }  # fmt: skip
    for key in ("position_buckets", "share_att_key", "norm_rel_ebd"):
        if r.random() < 0.1:
            del options[key]  # left to the default
    return options


def configuration(r, head):
    heads, head_size = r.choice([1, 2, 3, 4, 5]), r.choice([1, 3, 5, 7, 8, 11, 13, 16, 32])
    width, positions = heads * head_size, r.choice([11, 24, 37, 64, 150])
    config = {
        "hidden_size": width, "num_attention_heads": heads, "intermediate_size": r.choice([1, 17, 29, 48, 61]),
        "vocab_size": r.choice([13, 41, 97, 130]), "num_hidden_layers": r.choice([1, 1, 2, 3, 4]),
        "max_position_embeddings": positions, "type_vocab_size": r.choice([0, 0, 1, 2, 5]),
        "position_biased_input": r.random() < 0.4, "hidden_act": r.choice(ACTIVATIONS), "layer_norm_eps": r.choice([1e-7, 1e-7, 1e-12, 1e-5]),
        "pooler_hidden_act": r.choice(["gelu", "gelu", "tanh", "relu", "silu"]), "legacy": r.random() < 0.5,
        "tie_word_embeddings": r.random() < 0.8, "num_labels": r.choice([1, 2, 3, 5]), "pad_token_id": r.choice([0, 0, 3]),
        **relative_options(r, positions),
    }  # fmt: skip
    if r.random() < 0.3 and (head != "masked-lm" or config["legacy"]):
        config["embedding_size"] = r.choice([5, 19, width, width + 3])
    if r.random() < 0.4:
        config["conv_kernel_size"] = r.choice([1, 3, 3, 5, 7])
        config["conv_groups"] = r.choice([g for g in (1, 1, heads, width) if width % g == 0])
        if r.random() < 0.7:
            config["conv_act"] = r.choice(["tanh", "gelu", "relu", "sigmoid"])
    if head == "sequence-classification":
        kinds = [None, "regression", "single_label_classification", "multi_label_classification"]
        # transformers refuses a single label for single_label_classification.
        config["problem_type"] = r.choice([k for k in kinds if k != "single_label_classification" or config["num_labels"] > 1])
    if head == "question-answering":
        config["num_labels"] = 2
    return config


def label_inputs(r, inputs, config, head):
    shape, classes = inputs.shape, config.num_labels
    some = [i for i in range(shape.numel()) if r.random() < 0.3]
    if head == "masked-lm":
        inputs.labels(0, config.vocab_size, ignored=some)
    elif head == "token-classification":
        inputs.labels(0, classes, ignored=some)
    elif head == "multiple-choice":
        inputs.labels(0, shape[1], (shape[0],))
    elif head == "question-answering":
        inputs.spans([r.randint(-2, shape[1] + 3) for _ in range(shape[0])], [r.randint(-2, shape[1] + 3) for _ in range(shape[0])])
    elif head == "sequence-classification":
        sequence_labels(r, inputs, config.problem_type, shape[0], classes)


def sequence_labels(r, inputs, kind, batch, classes):
    column = r.choice([(batch,), (batch, 1)])
    if kind == "multi_label_classification":
        inputs.float_labels((batch, classes), "binary")
    elif kind == "regression" or (kind is None and classes == 1):
        inputs.float_labels(column if classes == 1 else (batch, classes))
    elif kind is None and r.random() < 0.3:
        inputs.float_labels((batch, classes), "distribution")
    else:
        # With problem_type absent transformers fails on a column.
        shape = column if kind else (batch,)
        inputs.labels(0, classes, shape, ignored=[i for i in range(batch) if r.random() < 0.2])


def model_inputs(r, config, head, seed):
    choices = r.choice([2, 3, 4]) if head == "multiple-choice" else None
    limit = config.max_position_embeddings if config.position_biased_input else 170
    length = min(limit, r.choice([1, 2, 3, 5, 8, 13, 21, 34, 90, 160]))
    inputs = Inputs(config, seed, r.choice([1, 2, 3]), length, choices)
    inputs.shape = torch.Size(inputs.shape)
    inputs = inputs.embeds() if r.random() < 0.15 else inputs.ids()
    if r.random() < 0.75:
        kinds = ["right", "left", "inside", "row"]
        has_conv = getattr(config, "conv_kernel_size", 0) > 0
        dtype = r.choice([torch.int64, torch.int64, torch.int32, torch.float32])
        inputs.mask(r.choice(kinds if has_conv or choices else [*kinds, "keys"]), dtype)
    if config.type_vocab_size > 0 and r.random() < 0.7:
        inputs.types()
    if config.position_biased_input and r.random() < 0.3:
        inputs.positions()
        if r.random() < 0.3 and not choices:
            inputs.put("position_ids", inputs.tensors["position_ids"][:1].clone())
    if head != "base" and r.random() < 0.7:
        label_inputs(r, inputs, config, head)
    return inputs


def draw(seed, head=None):
    """What the seed stands for, and a function from the loaded configuration to the inputs."""
    r = random.Random(seed)
    head = head or r.choice(HEADS)
    what = {
        "seed": seed, "head": head, "config": configuration(r, head),
        "weights": r.choice(["safetensors", "safetensors", "sharded", "bin"]),
        "dtype": r.choice(["float32", "float32", "float32", "bfloat16", "float16"]),
        "std": r.choice([0.02, 0.1, 0.35, 0.35, 0.6, 1.0]), "label_dtype": r.choice(["model", "model", "f32"]),
    }  # fmt: skip
    return what, lambda c: model_inputs(r, c, head, seed)
