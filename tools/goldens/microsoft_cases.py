"""The cases of fixtures/microsoft: configurations as Microsoft writes them, heads, inputs, and what each is there to catch."""

from dataclasses import dataclass, field

import torch

from inputs import Inputs

BOTH, NEWEST = ("microsoft", "microsoft-2021"), ("microsoft",)
F64 = ("f64",)


def config(heads, head_size, layers, intermediate, vocab, **options):
    """A model_config.json: every key that Microsoft's files hold, under Microsoft's names."""
    return {
        "hidden_size": heads * head_size, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": intermediate, "vocab_size": vocab, "max_position_embeddings": 47, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-7,
        "type_vocab_size": 0, "relative_attention": True, "max_relative_positions": -1, "padding_idx": 0,
        "position_buckets": 6, "position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": "p2c|c2p", **options,
    }  # fmt: skip


@dataclass
class Run:
    """One set of inputs, for one head of the case's model. `profiles`: whose code runs it."""

    head: str
    inputs: Inputs
    covers: str
    trace: tuple = ()
    profiles: tuple = BOTH


@dataclass
class Case:
    name: str
    head: str  # whose parameters the weight file holds
    config: dict
    covers: str
    runs: dict
    num_labels: int = 2
    weights: str = "bin"  # bin | safetensors
    extra: dict = field(default_factory=dict)


def shape_of(settings):
    """What Inputs asks of a configuration, from a model_config.json."""
    from types import SimpleNamespace

    return SimpleNamespace(**settings)


def some_labels(inputs, places):
    """Labels as Microsoft's pre-training has them: the token at a few places, 0 everywhere else."""
    labels = torch.zeros(inputs.shape, dtype=torch.int64)
    labels.view(-1)[places] = inputs.integers(1, inputs.config.vocab_size, (len(places),))
    return inputs.put("labels", labels)


def decoder_mask(inputs):
    """A mask [B, L, L] for the decoder's passes alone, within the encoder's; every query keeps itself."""
    valid = inputs.tensors["attention_mask"]
    square = inputs.integers(0, 2, (*valid.shape, valid.shape[-1])) * valid[:, None, :] * valid[:, :, None]
    square = torch.maximum(square, torch.diag_embed(valid))
    return inputs.put("decoder_attention_mask", square)


def pretraining_cases():
    emd = config(3, 7, 3, 23, 41, max_relative_positions=11)
    c = shape_of(emd)
    text = lambda n, batch=2, length=11: Inputs(c, n, batch, length).ids().mask("right")  # noqa: E731
    places = [1, 4, 5, 9, 12, 15]
    yield Case(
        "emd", "enhanced-masked-lm", emd, "the options of deberta-v3; distances from 11 on lie beyond max_relative_positions",
        {
            "base": Run("base", text(1), "padding on the right", F64),
            "base-long": Run("base", text(2, 2, 29), "length 29: the newest code clamps the distance at 10, that of 2021 goes on to the last column"),
            "base-masked-row": Run("base", Inputs(c, 3, 3, 7).ids().mask("row"), "a row of nothing but padding"),
            "base-keys-mask": Run("base", Inputs(c, 4, 3, 7).ids().mask("keys"), "mask [B, 1, 1, L]"),
            "golden": Run("enhanced-masked-lm", some_labels(text(5), places), "two passes through the last layer", profiles=NEWEST),
            "decoder-mask": Run("enhanced-masked-lm", decoder_mask(some_labels(text(6), places)), "the decoder's passes under a mask [B, L, L]", profiles=NEWEST),
            "positions": Run("enhanced-masked-lm", some_labels(text(7), places).positions(), "position_ids of one's own", profiles=NEWEST),
            "long": Run("enhanced-masked-lm", some_labels(text(8, 1, 47), [2, 3, 11, 30, 46]), "as long as the position table", profiles=NEWEST),
        },
    )  # fmt: skip
    biased = config(2, 11, 2, 29, 37, position_biased_input=True, type_vocab_size=3, embedding_size=17, share_att_key=False, pos_att_type="c2p", norm_rel_ebd="none")
    b = shape_of(biased)
    yield Case(
        "emd-biased", "enhanced-masked-lm", biased, "absolute positions in the input: no decoder passes; token types; embedding_size 17 for hidden_size 22; c2p alone, own projection",
        {
            "base": Run("base", Inputs(b, 11, 2, 9).ids().mask("left").types(), "token types", F64),
            "golden": Run("enhanced-masked-lm", some_labels(Inputs(b, 12, 2, 9).ids().mask("right"), [0, 2, 7, 10]), "the ordinary last layer; token types are not passed", profiles=NEWEST),
        },
        weights="safetensors",
    )  # fmt: skip
    conv = config(2, 13, 2, 19, 31, conv_kernel_size=3, conv_act="gelu", attention_head_size=13, hidden_act="tanh", position_buckets=-1, max_relative_positions=7, share_att_key=False)
    v = shape_of(conv)
    yield Case(
        "emd-conv", "enhanced-masked-lm", conv, "convolution; no buckets, distances clamped at 7; own projections; hidden_act tanh",
        {
            "base": Run("base", Inputs(v, 21, 2, 13).ids().mask("inside"), "padding between tokens", F64),
            "golden": Run("enhanced-masked-lm", some_labels(Inputs(v, 22, 2, 13).ids().mask("inside"), [0, 6, 13, 20]), "the decoder over the layer that the convolution ends", profiles=NEWEST),
        },
    )  # fmt: skip
    rtd = config(3, 7, 2, 29, 43, hidden_act="relu", share_att_key=False)
    r = shape_of(rtd)
    yield Case(
        "rtd", "replaced-token-detection", rtd, "replaced token detection; hidden_act relu",
        {"golden": Run("replaced-token-detection", some_labels(Inputs(r, 31, 2, 9).ids().mask("right"), [0, 2, 3, 8, 10, 12]), "labels above 0 that differ from the input", profiles=NEWEST)},
    )  # fmt: skip


def task_cases():
    plain = config(2, 11, 1, 23, 29, hidden_act="tanh")
    pooled = {**plain, "pooling": {"hidden_size": 22, "hidden_act": "gelu", "dropout": 0}, "type_vocab_size": 2}
    p, q = shape_of(plain), shape_of(pooled)
    text = lambda c, n: Inputs(c, n, 3, 7).ids().mask("right")  # noqa: E731
    head = "sequence-classification"
    yield Case(
        "sequence-classification", head, pooled, "the pooler's settings under \"pooling\"; three labels",
        {
            "golden": Run(head, text(q, 41).types().labels(0, 3, (3,)), "integer labels"),
            "negative": Run(head, text(q, 42).labels(0, 3, (3,), ignored=(1,)), "a negative label is left out"),
            "matrix": Run(head, text(q, 43).float_labels((3, 3), "distribution"), "a float matrix: soft cross-entropy"),
        },
        num_labels=3, weights="safetensors",
    )  # fmt: skip
    yield Case(
        "sequence-classification-1", head, plain, "no \"pooling\": the pooler's activation is hidden_act (tanh); one label, regression",
        {"golden": Run(head, text(p, 51).float_labels((3,)), "logits come out as [B]")}, num_labels=1,
    )  # fmt: skip
    yield Case(
        "token-classification", "token-classification", plain, "proj, gelu, classifier",
        {"golden": Run("token-classification", text(p, 61).labels(0, 4, ignored=(0, 9, 20)), "negative labels are left out")}, num_labels=4,
    )  # fmt: skip
    yield Case(
        "multiple-choice", "multiple-choice", plain, "the newest code pools position 0, that of 2021 by attention from position 0",
        {"golden": Run("multiple-choice", Inputs(p, 71, 2, 5, choices=3).ids().mask("right").labels(0, 3, (2,)), "[B, C, L]")},
    )  # fmt: skip


def all_cases():
    yield from pretraining_cases()
    yield from task_cases()
