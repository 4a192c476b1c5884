"""Mistakes that the diagnosis knows though no published port was seen to make them: the cause has to be right or not claimed."""

import torch

import mistakes_listed as listed
from mistakes_listed import attentions, hook, replace

ALL = []


def also(name, on, causes, **options):
    def register(plant):
        ALL.append(listed.Mistake(name, tuple(on.split()), plant, tuple(causes.split()), **options))
        return plant

    return register


def also_attention(name, on, causes, **methods):
    also(name, on, causes, stepped=True)(lambda model: [replace(m, **methods) for _, m in attentions(model)])


also_attention("softmax over queries", "v3-unpadded", "softmax-over-queries", probabilities=lambda self, scores: scores.softmax(-2))
also_attention("heads split as [L, D, H]", "v3 unshared", "heads-split-wrong", split=lambda self, x: x.unflatten(-1, (-1, self.num_attention_heads)).permute(0, 3, 1, 2))
also_attention("context not brought back", "v3", "heads-merged-wrong", merge=lambda self, x: x.reshape(x.shape[0], x.shape[2], -1))
also_attention("relative rows reversed", "v3 unshared", "relative-rows-reversed", rows=lambda self, rel: rel[: 2 * self.pos_ebd_size].flip(0).unsqueeze(0))
also_attention("columns off by one", "v3 unshared", "relative-column-off-by-one", column=lambda self, term, delta: (delta + self.pos_ebd_size + 1).clamp(0, 2 * self.pos_ebd_size - 1))
also_attention("scale of the whole width", "v3", "scale-of-hidden-size", scale=lambda self, term: (self.all_head_size * 3) ** 0.5)
also_attention("causal mask", "v3-unpadded unshared", "causal-mask", visible=lambda self, mask: mask.bool() & torch.ones(mask.shape[-2:], dtype=torch.bool).tril())
also_attention("keys for values", "v3", "context-from-keys projection-swapped", prepare=lambda self, q, k: (setattr(self, "seen", k), (q, k))[1], context=lambda self, probs, value: probs @ self.seen)
also_attention("another middle", "v3 unshared", "bucket-wrong-middle", delta=lambda self, term, length: listed.right_delta(torch.zeros(1, length, 1), torch.zeros(1, length, 1), self.position_buckets - 2, self.max_relative_positions)[0])


@also("no residual", "v3 unshared", "residual-missing")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.attention.output, forward=lambda self, x, residual: self.LayerNorm(self.dense(x)))


@also("norm without mean", "v3 unshared", "layer-norm-without-mean")
def _(model):
    listed.norms(model, lambda self, x: x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias)


@also("unbiased variance", "v3 unshared", "layer-norm-unbiased-variance")
def _(model):
    listed.norms(model, lambda self, x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias)


@also("value bias missing", "v3 unshared", "bias-missing")
def _(model):
    with torch.no_grad():
        for _, module in attentions(model):
            module.value_proj.bias.zero_()


@also("query and key exchanged", "v3 unshared", "projection-swapped")
def _(model):
    for _, module in attentions(model):
        a, b = module.query_proj.state_dict(), module.key_proj.state_dict()
        a, b = {k: v.clone() for k, v in a.items()}, {k: v.clone() for k, v in b.items()}
        module.query_proj.load_state_dict(b)
        module.key_proj.load_state_dict(a)


@also("the weights of another layer", "v3-unpadded", "weights-of-another-layer")
def _(model):
    layers = model.encoder.layer
    layers[1].attention.self.query_proj.load_state_dict(layers[0].attention.self.query_proj.state_dict())


@also("ReLU for GELU", "v3 unshared", "activation-relu")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.intermediate.intermediate_act_fn, forward=lambda self, x: x.relu())


@also("dropout left on", "v3 unshared", "dropout-active")
def _(model):
    torch.manual_seed(3)
    model.train()


@also("embeddings times the root of the width", "v3 absolute", "embeddings-scaled")
def _(model):
    hook(model.embeddings.word_embeddings, lambda out, args: out * out.shape[-1] ** 0.5)


@also("kernel reversed", "xlarge", "convolution-kernel-reversed")
def _(model):
    with torch.no_grad():
        model.encoder.conv.conv.weight.copy_(model.encoder.conv.conv.weight.flip(-1).clone())
