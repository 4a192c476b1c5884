"""Mistakes that ports were seen to make: docs of ports, their issues, and their later fixes name each of these.

A plant changes a model in place. `cause` is what the diagnosis should call it; of several, any will do."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import gelu
from transformers.models.deberta_v2 import modeling_deberta_v2 as hf

from mistakes_models import attentions, replace


@dataclass
class Mistake:
    name: str
    on: tuple  # names of settings
    plant: object  # function of the model; may return other inputs, or change the inputs it is given
    causes: tuple = ()
    stepped: bool = False  # planted into the attention in steps
    dtypes: tuple = ("f32",)
    mode: str = "model"  # "inputs": the plant is a function of the inputs


ALL = []


def mistake(name, on, causes, **options):
    def register(plant):
        ALL.append(Mistake(name, tuple(on.split()), plant, tuple(causes.split()), **options))
        return plant

    return register


def attention(name, on, causes, dtypes=("f32",), **methods):
    """A mistake in every attention of the model."""

    def plant(model):
        for _, module in attentions(model):
            replace(module, **methods)

    mistake(name, on, causes, stepped=True, dtypes=dtypes)(plant)


def hook(module, change):
    """`change(output, inputs)` becomes the module's output."""

    def changed(_module, args, output):
        if isinstance(output, tuple):
            return (change(output[0], args), *output[1:])
        return change(output, args)

    module.register_forward_hook(changed)


# Columns and distances


def span(self):
    return self.pos_ebd_size


def unshifted(term_wrong):
    def column(self, term, delta):
        right = (delta + span(self)).clamp(0, 2 * span(self) - 1)
        return delta.clamp(0, 2 * span(self) - 1) if term in term_wrong else right

    return column


attention("c2p column without + S", "v3 unshared clamped", "c2p-offset-missing", dtypes=("f32", "bf16"), column=unshifted(["c2p"]))
attention("p2c column without + S", "v3 unshared", "p2c-offset-missing", column=unshifted(["p2c"]))
attention("both columns without + S", "v3 clamped", "offset-missing", column=unshifted(["c2p", "p2c"]))
attention(
    "columns wrap instead of + S", "v3", "c2p-offset-missing offset-missing",
    column=lambda self, term, delta: delta.remainder(2 * span(self)),
)  # fmt: skip


def take_or_zero(self, products, index):
    wide = torch.cat([products, torch.zeros_like(products[..., :1])], -1)
    return torch.gather(wide, -1, index.expand(*wide.shape[:2], *index.shape))


@mistake("clamped at 2S instead of 2S − 1", "clamped", "column-clamp-wrong", stepped=True)
def _(model):
    for _, module in attentions(model):
        replace(module, column=lambda self, term, delta: (delta + span(self)).clamp(0, 2 * span(self)), take=take_or_zero)


right_delta = hf.build_relative_position


def delta_of(self, length):
    states = torch.zeros(1, length, 1)
    return right_delta(states, states, self.position_buckets, self.max_relative_positions)[0]


attention(
    "δ(j, i) for δ(i, j)", "v3 unshared clamped", "relative-position-negated", dtypes=("f32", "bf16"),
    delta=lambda self, term, length: -delta_of(self, length),
)  # fmt: skip
attention(
    "c2p index negated", "v3 unshared", "c2p-index-negated",
    delta=lambda self, term, length: -delta_of(self, length) if term == "c2p" else delta_of(self, length),
)  # fmt: skip
attention(
    "p2c index negated without the transpose", "v3 unshared", "p2c-index-negated",
    p2c=lambda self, q, k, pk, pq, index: self.take(k @ pq.transpose(-1, -2), index).transpose(-1, -2),
)  # fmt: skip
attention(
    "p2c not transposed after the gather", "v3 unshared clamped", "p2c-not-transposed",
    p2c=lambda self, q, k, pk, pq, index: self.take(k @ pq.transpose(-1, -2), index),
)  # fmt: skip
attention(
    "p2c on queries", "v3 p2c-alone", "p2c-on-queries",
    p2c=lambda self, q, k, pk, pq, index: self.take(q @ pq.transpose(-1, -2), index),
)  # fmt: skip
attention(
    "p2c with the rows of keys", "v3 unshared", "position-projections-swapped",
    p2c=lambda self, q, k, pk, pq, index: self.take(k @ pk.transpose(-1, -2), index.T).transpose(-1, -2),
)  # fmt: skip


def buckets_by(log):
    """δ with another logarithm: `log(|x|, mid, max)` is the part of the bucket above mid."""

    def delta(self, term, length):
        x = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        mid, maximum = self.position_buckets // 2, self.max_relative_positions
        far = x.abs().clamp(min=mid)
        bucket = torch.where(x.abs() <= mid, x, (x.sign() * (mid + log(far, mid, maximum))).long())
        return bucket

    return delta


def ratio(x, mid, maximum):
    return torch.log(x / mid) / math.log((maximum - 1) / mid)


attention(
    "integer division inside the logarithm", "v3 v3-wide unshared", "bucket-integer-division",
    delta=buckets_by(lambda x, mid, top: torch.ceil(torch.log((x // mid).float()) / math.log((top - 1) / mid) * (mid - 1))),
)  # fmt: skip
attention(
    "floor for ceil", "v3 unshared", "bucket-rounded-down",
    delta=buckets_by(lambda x, mid, top: torch.floor(ratio(x, mid, top) * (mid - 1))),
)  # fmt: skip
attention(
    "distances not put into buckets", "v3 unshared", "bucket-missing",
    delta=lambda self, term, length: torch.arange(length)[:, None] - torch.arange(length)[None, :],
)  # fmt: skip

# Scale

attention(
    "position terms divided by D·f without the root", "v3 unshared", "position-scale-without-root", dtypes=("f32", "bf16"),
    scale=lambda self, term: self.attention_head_size * 3 if term != "c2c" else math.sqrt(self.attention_head_size * 3),
)  # fmt: skip
attention(
    "all terms divided by D·f without the root", "v3 absolute", "scale-without-root",
    scale=lambda self, term: self.attention_head_size * self.factor(term),
)  # fmt: skip
attention("scale factor 1", "v3 unshared v3-wide", "scale-factor-1", factor=lambda self, term: 1)
attention("scale factor 2", "v3 xlarge", "scale-factor-2", factor=lambda self, term: 2)
attention("scale factor 3 where one term is on", "c2p-alone p2c-alone", "scale-factor-3", factor=lambda self, term: 3)
attention("factor in c2c only", "v3 unshared", "scale-one-term", factor=lambda self, term: 3 if term == "c2c" else 1)
attention("factor in the position terms only", "v3", "scale-one-term", factor=lambda self, term: 1 if term == "c2c" else 3)
attention("position terms not divided", "v3", "scale-one-term", scale=lambda self, term: math.sqrt(48.0) if term == "c2c" else 1.0)
attention("no scale at all", "v3 absolute", "scale-missing", scale=lambda self, term: 1.0)

# Terms and rows


def without_term(term):
    def method(self, q, k, pk, pq, index):
        return torch.zeros(q.shape[0], q.shape[1], q.shape[2], k.shape[2], dtype=q.dtype)

    return {term: method}


attention("c2p missing", "v3 c2p-alone", "c2p-missing", **without_term("c2p"))
attention("p2c missing", "v3 unshared", "p2c-missing", **without_term("p2c"))
attention("no relative attention", "v3 unshared", "relative-attention-missing", **without_term("c2p"), **without_term("p2c"))


def without_bias(linear):
    return lambda x: nn.functional.linear(x, linear.weight)


@mistake("relative rows projected without bias", "v3 unshared", "relative-projection-bias-missing")
def _(model):
    for _, module in attentions(model):
        for leaf in ("key_proj", "query_proj"):
            linear = getattr(module, leaf if module.share_att_key else f"pos_{leaf}")

            def change(output, args, bias=linear.bias, shared=module.share_att_key):
                relative = not shared or args[0].shape[1] != 40
                return output - bias if relative else output

            hook(linear, change)


@mistake("layer norm of the relative rows missing", "v3 xlarge", "relative-norm-missing")
def _(model):
    replace(model.encoder, get_rel_embedding=lambda self: self.rel_embeddings.weight)


@mistake("layer norm of the relative rows twice", "v3 clamped", "relative-norm-twice")
def _(model):
    replace(model.encoder, get_rel_embedding=lambda self: self.LayerNorm(self.LayerNorm(self.rel_embeddings.weight)))


@mistake("relative rows normed again in each layer", "v3", "relative-norm-each-layer")
def _(model):
    norm = model.encoder.LayerNorm
    for i, (_, module) in enumerate(attentions(model)):

        def again(rows, args, times=i):
            for _ in range(times):
                rows = nn.functional.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            return rows

        hook(module.pos_dropout, again)


# Convolution


def convolution(name, on, causes, forward):
    mistake(name, on, causes)(lambda model: replace(model.encoder.conv, forward=forward))


def convolve(self, states, residual, mask, masked=True, activation=None, first=False):
    out = self.conv(states.permute(0, 2, 1)).permute(0, 2, 1)
    act = activation or hf.ACT2FN[self.conv_act]
    hidden = mask.unsqueeze(-1) == 0
    if first:
        out = act(self.dropout(out)).masked_fill(hidden, 0)
    else:
        out = act(self.dropout(out.masked_fill(hidden, 0) if masked else out))
    return self.LayerNorm(residual + out) * mask.unsqueeze(2).to(out.dtype)


convolution("convolution missing", "xlarge everything", "convolution-missing", lambda self, states, residual, mask: residual)
convolution(
    "convolution of layer 0's output", "xlarge everything", "convolution-from-layer-output",
    lambda self, states, residual, mask: convolve(self, residual, residual, mask),
)  # fmt: skip
convolution(
    "convolution unmasked", "xlarge-sigmoid everything", "convolution-unmasked",
    lambda self, states, residual, mask: convolve(self, states, residual, mask, masked=False),
)  # fmt: skip
convolution(
    "activation before the mask", "xlarge-sigmoid", "convolution-unmasked convolution-wrong-activation",
    lambda self, states, residual, mask: convolve(self, states, residual, mask, first=True),
)  # fmt: skip
convolution(
    "tanh in the convolution, whatever conv_act says", "xlarge", "convolution-wrong-activation",
    lambda self, states, residual, mask: convolve(self, states, residual, mask, activation=torch.tanh),
)  # fmt: skip


def relocate_convolution(model, after):
    """Takes the convolution from behind layer 0 and puts it behind the layers of `after`."""
    encoder = model.encoder
    conv, seen = encoder.conv, {}
    encoder.conv = None
    encoder.add_module("conv_elsewhere", conv)

    def keep(_module, args, kwargs):
        seen["mask"] = args[1] if len(args) > 1 else kwargs["attention_mask"]
        seen["states"] = args[0]

    encoder.register_forward_pre_hook(keep, with_kwargs=True)
    for i in after:
        hook(encoder.layer[i], lambda out, args: conv(seen["states"], out, seen["mask"]))


@mistake("convolution after every layer", "xlarge", "convolution-every-layer")
def _(model):
    conv, seen = model.encoder.conv, {}
    hook(conv, lambda out, args: (seen.update(states=args[0], mask=args[2]), out)[1])

    def again(out, args):
        return convolve(conv, seen["states"], out, seen["mask"])

    for layer in model.encoder.layer[1:]:
        hook(layer, again)


@mistake("convolution after layer 1", "xlarge", "convolution-after-wrong-layer convolution-missing")
def _(model):
    relocate_convolution(model, [1])


# Embeddings, norms and activations


@mistake("absolute positions added though not biased", "v3", "position-embeddings-added")
def _(model):
    rows = torch.randn(64, model.config.hidden_size, generator=torch.Generator().manual_seed(5)) * 0.02
    hook(model.embeddings.word_embeddings, lambda out, args: out + rows[: out.shape[1]].to(out.dtype))


@mistake("absolute positions missing", "everything absolute", "position-embeddings-missing")
def _(model):
    hook(model.embeddings.position_embeddings, lambda out, args: torch.zeros_like(out))


@mistake("positions from 1", "absolute everything", "positions-off-by-one", mode="inputs")
def _(given):
    given["position_ids"] = torch.arange(1, given["input_ids"].shape[1] + 1)[None]


@mistake("positions from pad_token_id + 1", "everything", "positions-from-padding-index", mode="inputs")
def _(given):
    given["position_ids"] = torch.arange(2, given["input_ids"].shape[1] + 2)[None]


@mistake("token types ignored", "absolute everything", "token-types-ignored", mode="inputs")
def _(given):
    given["token_type_ids"] = torch.zeros_like(given["token_type_ids"])


@mistake("embeddings not masked", "v3 xlarge", "embeddings-not-masked")
def _(model):
    norm, seen = model.embeddings.LayerNorm, {}
    norm.register_forward_hook(lambda m, a, out: seen.update(out=out))
    hook(model.embeddings, lambda out, args: seen["out"])


def epsilon(value, note):
    @mistake(f"epsilon {note} for 1e-7", "v3 absolute", "layer-norm-epsilon")
    def _(model):
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = value


for value, note in ((1e-12, "1e-12"), (1e-5, "1e-5")):
    epsilon(value, note)


def norms(model, function):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            replace(module, forward=function)


@mistake("variance as E[x²] − E[x]²", "offset", "layer-norm-variance-of-squares")
def _(model):
    def forward(self, x):
        mean, square = x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
        return (x - mean) / (square - mean * mean).clamp(min=0).add(self.eps).sqrt() * self.weight + self.bias

    norms(model, forward)


@mistake("bf16 statistics of layer norms", "v3 offset", "layer-norm-statistics-half")
def _(model):
    def forward(self, x):
        mean = x.mean(-1, keepdim=True).bfloat16().to(x.dtype)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True).bfloat16().to(x.dtype)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias

    norms(model, forward)


@mistake("tanh GELU for erf", "v3 unshared absolute", "gelu-tanh", dtypes=("f32",))
def _(model):
    for layer in model.encoder.layer:
        replace(layer.intermediate.intermediate_act_fn, forward=lambda self, x: gelu(x, approximate="tanh"))


# Masks

attention(
    "mask additive, −10000", "v3 everything", "mask-additive",
    masked=lambda self, scores, visible: scores + (~visible) * torch.tensor(-10000.0, dtype=scores.dtype),
)  # fmt: skip
attention(
    "mask fill beyond the dtype's range", "v3", "mask-fill-infinite", dtypes=("f32", "f16"),
    masked=lambda self, scores, visible: scores.masked_fill(~visible, float("-inf")),
)  # fmt: skip
attention("padding not masked", "v3 everything", "padding-not-masked", visible=lambda self, mask: torch.ones_like(mask).bool())
attention(
    "mask of keys alone", "v3 unshared", "mask-of-keys-only",
    visible=lambda self, mask: mask.bool().any(-2, keepdim=True),
)  # fmt: skip


@mistake("padding ids without a mask", "v3", "padding-not-masked embeddings-not-masked", mode="inputs")
def _(given):
    given["attention_mask"] = torch.ones_like(given["attention_mask"])


# Weights


@mistake("query weights not transposed", "v3 unshared", "weights-transposed")
def _(model):
    with torch.no_grad():
        for _, module in attentions(model):
            module.query_proj.weight.copy_(module.query_proj.weight.T.clone())


@mistake("attention's dense not transposed", "v3", "weights-transposed")
def _(model):
    with torch.no_grad():
        for layer in model.encoder.layer:
            weight = layer.attention.output.dense.weight
            weight.copy_(weight.T.clone())


@mistake("convolution transposed as a dense kernel", "xlarge", "convolution-weights-transposed weights-transposed")
def _(model):
    with torch.no_grad():
        weight = model.encoder.conv.conv.weight
        weight.copy_(weight.permute(1, 0, 2).clone())


@mistake("interleaved in_proj split in thirds", "v3 unshared", "in-proj-split-in-thirds")
def _(model):
    with torch.no_grad():
        for _, module in attentions(model):
            linears = (module.query_proj, module.key_proj, module.value_proj)
            heads = module.num_attention_heads
            for kind in ("weight", "bias"):
                parts = [getattr(linear, kind).unflatten(0, (heads, -1)) for linear in linears]
                interleaved = torch.stack(parts, 1).flatten(0, 2)
                for linear, third in zip(linears, interleaved.chunk(3)):
                    getattr(linear, kind).copy_(third.clone())


# Heads


@mistake("classifier without bias", "token sequence", "classifier-bias-missing bias-missing")
def _(model):
    hook(model.classifier, lambda out, args: out - model.classifier.bias)


@mistake("pooler tanh for GELU", "sequence", "pooler-tanh")
def _(model):
    def forward(self, states):
        return torch.tanh(self.dense(self.dropout(states[:, 0])))

    replace(model.pooler, forward=forward)


@mistake("pooled from the mean", "sequence", "pooler-mean")
def _(model):
    def forward(self, states):
        return gelu(self.dense(self.dropout(states.mean(1))))

    replace(model.pooler, forward=forward)


@mistake("masked-lm head left random", "masked-lm masked-lm-new", "head-not-loaded")
def _(model):
    g = torch.Generator().manual_seed(77)
    with torch.no_grad():
        head = model.cls.predictions.transform if hasattr(model, "cls") else model.lm_predictions.lm_head
        head.dense.weight.copy_(0.02 * torch.randn(head.dense.weight.shape, generator=g))
        head.dense.bias.zero_()


@mistake("EMD over the last layer's output", "emd", "emd-last-layer")
def _(model):
    replace(model, context=lambda self, states: states[-1])


@mistake("EMD with layer-normed z", "emd", "emd-z-normed")
def _(model):
    norm = model.deberta.embeddings.LayerNorm
    replace(model, start=lambda self, context, rows: nn.functional.layer_norm(rows + context, norm.normalized_shape, norm.weight, norm.bias, norm.eps))


@mistake("EMD in one pass", "emd", "emd-one-pass")
def _(model):
    replace(model, passes=lambda self: 1)


@mistake("EMD without positions", "emd", "emd-positions-missing")
def _(model):
    replace(model, start=lambda self, context, rows: context)


@mistake("EMD: keys and values from query states", "emd", "emd-keys-from-query-states")
def _(model):
    layer = model.deberta.encoder.layer[-1]

    def swap(_module, args, kwargs):
        if kwargs.get("query_states") is not None:
            return (kwargs["query_states"], *args[1:]), kwargs
        return None

    layer.register_forward_pre_hook(swap, with_kwargs=True)
