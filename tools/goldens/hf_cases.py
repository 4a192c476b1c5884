"""The cases of fixtures/hf: which configuration, which head, which inputs, and what each is there to catch.

Sizes are distinct primes, or products of two (`hidden_size` = heads × head size), so that swapped axes cannot pass.
"""

from dataclasses import dataclass, field

import torch

from inputs import Inputs

V3 = dict(
    relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
    pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, max_relative_positions=-1,
)  # fmt: skip


def sizes(heads, head_size, intermediate, vocab, layers=2, positions=64):
    return dict(
        hidden_size=heads * head_size, num_attention_heads=heads, intermediate_size=intermediate, vocab_size=vocab,
        num_hidden_layers=layers, max_position_embeddings=positions,
    )  # fmt: skip


@dataclass
class Run:
    """One set of inputs. `trace`: which precisions hold every intermediate; `attentions`: whether these are kept."""

    inputs: Inputs
    covers: str
    trace: tuple = ()
    attentions: bool = True
    label_dtype: str = "model"  # or "f32": labels stay f32 where the model is f64


@dataclass
class Case:
    """One model directory with the runs made on it."""

    name: str
    head: str
    config: dict
    covers: str
    runs: dict  # name → function of the configuration → Run
    weights: str = "safetensors"  # safetensors | sharded | bin | both
    dtype: str = "float32"  # what the weight file stores
    rewrite: dict = field(default_factory=dict)  # keys of config.json written otherwise than save_pretrained does
    std: float = 0.35


# Which precisions hold every intermediate.
FULL = ("f64", "f32")
F64 = ("f64",)


def base_cases():
    def v3(c):
        return lambda n, batch=3, length=13: Inputs(c, 1000 + n, batch, length).ids()

    yield Case(
        "base-v3", "base", {**V3, **sizes(2, 13, 37, 53)},
        "the options of deberta-v3: shared projections, log buckets, layer-normed relative rows, no absolute positions; config.json as published (\"p2c|c2p\")",
        {
            "golden": lambda c: Run(v3(c)(0, 2).mask("right"), "padding on the right", FULL),
            "no-mask": lambda c: Run(v3(c)(1), "no mask given"),
            "left": lambda c: Run(v3(c)(2).mask("left"), "padding on the left"),
            "inside": lambda c: Run(v3(c)(3).mask("inside"), "padding between tokens"),
            "masked-row": lambda c: Run(v3(c)(4, 3, 7).mask("row"), "a row of nothing but padding", F64),
            "keys-mask": lambda c: Run(v3(c)(5).mask("keys"), "mask [B, 1, 1, L]: padded queries attend like the others"),
            "embeds": lambda c: Run(Inputs(c, 1006, 2, 11).embeds().mask("right"), "inputs_embeds"),
            "one-token": lambda c: Run(v3(c)(7, 2, 1), "length 1"),
            "long": lambda c: Run(v3(c)(8, 2, 97).mask("right"), "length 97, far beyond the last bucket and max_position_embeddings", attentions=False),
            "ignored-inputs": lambda c: Run(v3(c)(9, 2, 5).types(7).positions(), "token types and positions that the model has no table for are ignored"),
            "float-mask": lambda c: Run(v3(c)(10, 2, 7).mask("right", torch.float32), "the mask as f32"),
        },
        weights="both", rewrite={"pos_att_type": "p2c|c2p", "dtype": None},
    )  # fmt: skip
    yield Case(
        "base-v2-xlarge", "base", {**V3, **sizes(3, 7, 41, 47), "conv_kernel_size": 3, "conv_act": "gelu", "pos_att_type": "P2C | c2p", "layer_norm_eps": 1e-5},
        "the options of deberta-v2-xlarge: convolution of 3 with gelu; another epsilon",
        {
            "golden": lambda c: Run(Inputs(c, 1100, 2, 13).ids().mask("inside"), "padding between tokens, through the convolution", FULL),
            "masked-row": lambda c: Run(Inputs(c, 1101, 2, 7).ids().mask("row"), "a row of nothing but padding"),
            "one-token": lambda c: Run(Inputs(c, 1102, 3, 1).ids(), "length 1, shorter than the kernel"),
            "two-tokens": lambda c: Run(Inputs(c, 1103, 2, 2).ids().mask("right"), "length 2"),
        },
        weights="sharded", rewrite={"pos_att_type": "P2C | c2p"},
    )  # fmt: skip
    yield Case(
        "base-conv5-groups", "base",
        {**V3, **sizes(3, 11, 29, 43), "conv_kernel_size": 5, "conv_groups": 11, "share_att_key": False, "norm_rel_ebd": "none", "hidden_act": "gelu_new"},
        "convolution of 5 in 11 groups, conv_act by default (tanh); own position projections; relative rows not normed",
        {
            "golden": lambda c: Run(Inputs(c, 1200, 2, 11).ids().mask("left"), "padding on the left, through the convolution", F64),
            "three-tokens": lambda c: Run(Inputs(c, 1201, 2, 3).ids(), "length 3, shorter than the kernel"),
        },
    )  # fmt: skip
    yield Case(
        "base-absolute", "base",
        {**sizes(2, 11, 31, 59, positions=19), "relative_attention": False, "type_vocab_size": 3, "hidden_act": "relu", "embedding_size": 17},
        "no relative attention, pos_att_type null; absolute positions; three token types; embedding_size 17 for hidden_size 22",
        {
            "golden": lambda c: Run(Inputs(c, 1300, 2, 11).ids().mask("right").types(), "token types", FULL),
            "positions": lambda c: Run(Inputs(c, 1301, 3, 13).ids().mask("right").types().positions(), "position_ids of one's own"),
            "position-row": lambda c: Run(Inputs(c, 1302, 2, 5).ids().put("position_ids", Inputs(c, 9, 1, 5).positions().tensors["position_ids"]), "position_ids [1, L] for a batch; no token types: all 0"),
            "embeds": lambda c: Run(Inputs(c, 1303, 2, 7).embeds().types(), "inputs_embeds are as wide as embedding_size"),
            "full-length": lambda c: Run(Inputs(c, 1304, 1, 19).ids(), "as long as the position table"),
        },
        weights="bin",
    )  # fmt: skip
    yield Case(
        "base-absolute-factor", "base",
        {**sizes(2, 11, 31, 59, layers=1, positions=19), "relative_attention": False, "pos_att_type": ["c2p", "p2c"], "hidden_act": "silu"},
        "pos_att_type counts in the scale though relative_attention is false",
        {"golden": lambda c: Run(Inputs(c, 1400, 2, 7).ids().mask("right"), "", F64)},
    )  # fmt: skip
    yield Case(
        "base-c2p-clamp", "base",
        {**V3, **sizes(5, 7, 23, 61, positions=29), "position_buckets": -1, "max_relative_positions": 5, "share_att_key": False, "pos_att_type": "c2p", "norm_rel_ebd": "none", "position_biased_input": True, "type_vocab_size": 2, "hidden_act": "gelu_fast"},
        "no buckets, distances clamped at 5; c2p alone with its own projection; absolute positions as well",
        {"golden": lambda c: Run(Inputs(c, 1500, 2, 13).ids().mask("inside").types(), "distances up to 12", F64)},
    )  # fmt: skip
    yield Case(
        "base-p2c-odd-buckets", "base",
        {**V3, **sizes(3, 11, 19, 67), "position_buckets": 7, "max_relative_positions": 23, "share_att_key": False, "pos_att_type": ["p2c"], "hidden_act": "tanh"},
        "p2c alone with its own projection; 7 buckets over 23 positions",
        {
            "golden": lambda c: Run(Inputs(c, 1600, 2, 13).ids().mask("right"), "", F64),
            "long": lambda c: Run(Inputs(c, 1601, 1, 83).ids(), "length 83, beyond max_relative_positions", attentions=False),
        },
    )  # fmt: skip
    yield Case(
        "base-shared-c2p", "base", {**V3, **sizes(2, 17, 23, 37, layers=1), "pos_att_type": ["c2p"], "position_buckets": 5, "max_relative_positions": 31, "hidden_act": "mish"},
        "shared projection, c2p alone; 5 buckets over 31 positions",
        {"golden": lambda c: Run(Inputs(c, 1700, 2, 11).ids().mask("left"), "", F64)},
    )  # fmt: skip
    yield Case(
        "base-shared-p2c", "base", {**V3, **sizes(2, 17, 23, 37, layers=1), "pos_att_type": "p2c", "position_buckets": -1, "max_relative_positions": -1, "max_position_embeddings": 11, "hidden_act": "quick_gelu"},
        "shared projection, p2c alone; no buckets, span from max_position_embeddings (11)",
        {"golden": lambda c: Run(Inputs(c, 1800, 2, 17).ids().mask("right"), "longer than the span", F64)},
    )  # fmt: skip
    yield Case(
        "base-relative-none", "base", {**V3, **sizes(3, 7, 23, 37, layers=1), "pos_att_type": None, "hidden_act": "sigmoid"},
        "relative_attention with no pos_att_type: rel_embeddings exist and nothing uses them; config.json holds null",
        {"golden": lambda c: Run(Inputs(c, 1900, 2, 7).ids().mask("right"), "", F64)},
    )  # fmt: skip
    yield Case(
        "base-unknown-type", "base", {**V3, **sizes(3, 7, 23, 37, layers=1), "pos_att_type": ["c2p", "p2c", "x2y"], "share_att_key": False, "norm_rel_ebd": " layer_norm | other", "hidden_act": "gelu_pytorch_tanh"},
        "unknown entries of pos_att_type and norm_rel_ebd are ignored",
        {"golden": lambda c: Run(Inputs(c, 2000, 2, 11).ids().mask("inside"), "", F64)},
    )  # fmt: skip
    yield Case(
        "base-everything", "base",
        {**V3, **sizes(3, 13, 47, 71, layers=3, positions=41), "embedding_size": 23, "conv_kernel_size": 3, "conv_groups": 3, "conv_act": "tanh", "share_att_key": False, "position_biased_input": True, "type_vocab_size": 2, "position_buckets": 6, "max_relative_positions": 37, "hidden_act": "gelu_python"},
        "every option at once, three layers",
        {
            "golden": lambda c: Run(Inputs(c, 2100, 2, 11).ids().mask("right").types().positions(), "", F64),
            "full-length": lambda c: Run(Inputs(c, 2101, 1, 41).ids().types(), "as long as the position table", attentions=False),
        },
    )  # fmt: skip
    for dtype, weights in (("bfloat16", "safetensors"), ("float16", "bin")):
        yield Case(
            f"base-{dtype}", "base", {**V3, **sizes(2, 11, 29, 31, layers=1)}, f"weights stored as {dtype}, computed in f32 and f64",
            {"golden": lambda c: Run(Inputs(c, 2200, 2, 7).ids().mask("right"), "")},
            weights=weights, dtype=dtype,
        )  # fmt: skip


def masked_lm_cases():
    lm = lambda c, n: Inputs(c, n, 2, 11).ids().mask("right")  # noqa: E731
    runs = lambda n: {  # noqa: E731
        "golden": lambda c: Run(lm(c, n).labels(0, c.vocab_size, ignored=(0, 3, 5, 12, 20, 21)), "labels with −100", F64),
        "no-labels": lambda c: Run(lm(c, n + 1), "logits alone"),
        "all-ignored": lambda c: Run(lm(c, n + 2).labels(0, c.vocab_size, ignored=range(22)), "every label −100: the loss is NaN"),
    }
    yield Case(
        "masked-lm-legacy", "masked-lm", {**V3, **sizes(2, 11, 29, 41, layers=1), "hidden_act": "gelu"},
        "cls.predictions, decoder tied to the word embeddings (absent from the file)", runs(3000),
    )  # fmt: skip
    yield Case(
        "masked-lm-legacy-narrow", "masked-lm", {**V3, **sizes(2, 13, 29, 41, layers=1), "embedding_size": 17, "hidden_act": "gelu_new"},
        "the transform leads back to embedding_size", runs(3100), weights="bin",
    )  # fmt: skip
    yield Case(
        "masked-lm-untied", "masked-lm", {**V3, **sizes(3, 7, 29, 41, layers=1), "tie_word_embeddings": False},
        "tie_word_embeddings false: a decoder with weight and bias of its own", {"golden": runs(3200)["golden"]},
    )  # fmt: skip
    yield Case(
        "masked-lm-new", "masked-lm", {**V3, **sizes(2, 13, 31, 43, layers=1), "legacy": False, "hidden_act": "gelu"},
        "legacy false: lm_predictions.lm_head, logits from the word embeddings", runs(3300),
    )  # fmt: skip


def classification_cases():
    name, head = "sequence-classification", "sequence-classification"
    small = {**V3, **sizes(2, 11, 23, 29, layers=1)}
    text = lambda c, n, batch=3: Inputs(c, n, batch, 7).ids().mask("right")  # noqa: E731

    yield Case(
        f"{name}-none", head, {**small, "num_labels": 5}, "problem_type absent, five labels",
        {
            "golden": lambda c: Run(text(c, 4000).labels(0, 5, (3,)), "integer labels", F64),
            "negative": lambda c: Run(text(c, 4001, 5).labels(0, 5, (5,), ignored=(1, 4)), "negative labels are left out"),
            "all-negative": lambda c: Run(text(c, 4002).labels(0, 5, (3,), ignored=(0, 1, 2)), "no label left: the loss is 0"),
            "float-vector": lambda c: Run(text(c, 4003).put("labels", Inputs(c, 4, 3, 1).integers(0, 5, (3,)).double()), "labels that are floats, read as integers"),
            "matrix": lambda c: Run(text(c, 4004).float_labels((3, 5), "distribution"), "a float matrix: soft cross-entropy"),
            "int-matrix": lambda c: Run(text(c, 4005).labels(0, 2, (3, 5)), "an integer matrix takes the same branch"),
            "no-labels": lambda c: Run(text(c, 4006), "logits alone"),
            "masked-row": lambda c: Run(text(c, 4007).mask("row").labels(0, 5, (3,)), "a row of nothing but padding is pooled too"),
        },
    )  # fmt: skip
    yield Case(
        f"{name}-none-1", head, {**small, "num_labels": 1, "pooler_hidden_act": "tanh"}, "problem_type absent, one label: regression; pooler_hidden_act tanh",
        {
            "golden": lambda c: Run(text(c, 4100).float_labels((3,)), "logits come out as [B] when labels are given"),
            "column": lambda c: Run(text(c, 4101).float_labels((3, 1)), "labels [B, 1]"),
            "f32-labels": lambda c: Run(text(c, 4102).float_labels((3,)), "labels in f32: the logits are rounded to their dtype", label_dtype="f32"),
            "no-labels": lambda c: Run(text(c, 4103), "logits [B, 1]"),
        },
        weights="bin",
    )  # fmt: skip
    for labels, kind in ((1, (3,)), (5, (3, 5))):
        yield Case(
            f"{name}-regression-{labels}", head, {**small, "num_labels": labels, "problem_type": "regression"}, f"regression, {labels} label(s)",
            {"golden": lambda c, kind=kind: Run(text(c, 4200).float_labels(kind), "mean squared error")},
        )  # fmt: skip
    yield Case(
        f"{name}-single", head, {**small, "num_labels": 5, "problem_type": "single_label_classification", "pooler_hidden_act": "relu"}, "single_label_classification",
        {
            "golden": lambda c: Run(text(c, 4300, 5).labels(0, 5, (5,), ignored=(2,)), "−100 is ignored"),
            "all-ignored": lambda c: Run(text(c, 4301).labels(0, 5, (3,), ignored=(0, 1, 2)), "every label −100: the loss is NaN"),
        },
    )  # fmt: skip
    yield Case(
        f"{name}-multi", head, {**small, "num_labels": 5, "problem_type": "multi_label_classification"}, "multi_label_classification",
        {
            "golden": lambda c: Run(text(c, 4400).float_labels((3, 5), "binary"), "zeros and ones"),
            "soft": lambda c: Run(text(c, 4401).float_labels((3, 5), "distribution"), "targets between 0 and 1"),
            "f32-labels": lambda c: Run(text(c, 4402).float_labels((3, 5), "binary"), "labels in f32: the loss is f32 in an f64 model too", label_dtype="f32"),
        },
    )  # fmt: skip


def other_head_cases():
    small = {**V3, **sizes(3, 7, 23, 29, layers=1)}
    text = lambda c, n: Inputs(c, n, 3, 7).ids().mask("right")  # noqa: E731
    yield Case(
        "token-classification", "token-classification", {**small, "num_labels": 5}, "a label for each token",
        {
            "golden": lambda c: Run(text(c, 5000).labels(0, 5, ignored=(0, 7, 8, 16, 20)), "labels with −100", F64),
            "all-ignored": lambda c: Run(text(c, 5001).labels(0, 5, ignored=range(21)), "every label −100: the loss is NaN"),
        },
    )  # fmt: skip
    yield Case(
        "question-answering", "question-answering", small, "start and end of a span",
        {
            "golden": lambda c: Run(text(c, 5100).spans([2, 0, 5], [4, 0, 6]), "positions inside", F64),
            "outside": lambda c: Run(text(c, 5101).spans([2, 7, -7], [400, 3, 6]), "positions outside are clamped; L is ignored"),
            "all-outside": lambda c: Run(text(c, 5102).spans([7, 8, 13], [1, 2, 3]), "no start left: the loss is NaN"),
            "column": lambda c: Run(text(c, 5103).spans([[1], [2], [3]], [[4], [5], [6]]), "positions [B, 1]"),
            "start-alone": lambda c: Run(text(c, 5104).put("start_positions", Inputs(c, 5, 3, 1).integers(0, 7, (3,))), "start without end: no loss"),
        },
    )  # fmt: skip
    yield Case(
        "multiple-choice", "multiple-choice", {**small, "type_vocab_size": 2}, "[B, C, L]",
        {
            "golden": lambda c: Run(Inputs(c, 5200, 2, 7, choices=3).ids().mask("right").types().labels(0, 3, (2,)), "", F64),
            "embeds": lambda c: Run(Inputs(c, 5201, 2, 5, choices=3).embeds().mask("left"), "inputs_embeds [B, C, L, E]"),
        },
    )  # fmt: skip


def tensor_core_cases():
    yield Case(
        "base-even-heads", "base", {**V3, **sizes(3, 16, 43, 37)},
        "heads of 16, which tensor cores take; more than one tile of 64 queries and keys",
        {
            "golden": lambda c: Run(Inputs(c, 5300, 2, 71).ids().mask("right"), "padding on the right", attentions=False),
            "no-mask": lambda c: Run(Inputs(c, 5301, 1, 67).ids(), "no mask given", attentions=False),
        },
        std=0.15,
    )  # fmt: skip


def all_cases():
    for group in (base_cases, masked_lm_cases, classification_cases, other_head_cases, tensor_core_cases):
        yield from group()
