"""Mistakes that are on no list: whoever diagnoses has not been told of them, and must not be sure of a wrong cause.

`causes` names what may be said of one with confidence, where another mistake computes the same numbers."""

import torch
from torch import nn

import mistakes_listed as listed
from mistakes_listed import attentions, hook, replace
from mistakes_models import SteppedAttention

ALL = []


def mistake(name, on, causes="", **options):
    def register(plant):
        ALL.append(listed.Mistake(name, tuple(on.split()), plant, tuple(causes.split()), **options))
        return plant

    return register


def attention(name, on, causes="", dtypes=("f32",), **methods):
    def plant(model):
        for _, module in attentions(model):
            replace(module, **methods)

    mistake(name, on, causes, stepped=True, dtypes=dtypes)(plant)


def rotate(x):
    """Rotary positions."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 10000 ** (torch.arange(half) / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


attention("values rolled by one head", "v3 unshared", context=lambda self, probs, value: probs @ value.roll(1, 1))
attention("one set of values for all heads", "v3", context=lambda self, probs, value: probs @ value[:, :1].expand_as(value))
attention("one head silent", "v3", context=lambda self, probs, value: (probs @ value) * torch.tensor([1, 1, 0])[:, None, None])
attention("heads merged in reverse", "v3", merge=lambda self, x: SteppedAttention.merge(self, x.flip(1)))
attention("temperature of 1.1", "v3 absolute", probabilities=lambda self, scores: (scores / 1.1).softmax(-1))
attention("softmax plus one", "v3-unpadded", probabilities=lambda self, s: s.exp() / (1 + s.exp().sum(-1, keepdim=True)))
attention("sigmoid for softmax", "v3-unpadded", probabilities=lambda self, scores: scores.sigmoid() / scores.shape[-1])
attention("scores capped by tanh", "v3 unshared", probabilities=lambda self, s: torch.where(s > -1e30, 3 * torch.tanh(s / 3), s).softmax(-1))
attention("probabilities sharpened by topping", "v3", probabilities=lambda self, s: s.masked_fill(s < s.topk(5, -1).values[..., -1:], -1e30).softmax(-1))
attention("rotary positions as well", "v3 unshared", prepare=lambda self, q, k: (rotate(q), rotate(k)))
attention("queries and keys normed", "v3", prepare=lambda self, q, k: (nn.functional.normalize(q, dim=-1) * 4, nn.functional.normalize(k, dim=-1) * 4))
attention("a linear bias on distance", "v3", c2c=lambda self, q, k: q @ k.transpose(-1, -2) - 0.3 * (torch.arange(q.shape[-2])[:, None] - torch.arange(q.shape[-2])).abs())
attention("a window of 8 keys", "v3-unpadded", visible=lambda self, mask: mask.bool() & ((torch.arange(mask.shape[-1])[:, None] - torch.arange(mask.shape[-1])).abs() < 8))
attention("the mask of another sequence", "v3 unshared", visible=lambda self, mask: mask.bool().roll(1, 0))
attention("c2p of the neighbouring head", "v3", c2p=lambda self, q, k, pk, pq, index: self.take(q @ pk.roll(1, 1).transpose(-1, -2), index))
attention("p2c counted twice", "v3 unshared", "p2c-twice", p2c=lambda self, q, k, pk, pq, index: 2 * SteppedAttention.p2c(self, q, k, pk, pq, index))
attention("c2p subtracted", "v3", "position-term-subtracted", c2p=lambda self, q, k, pk, pq, index: -SteppedAttention.c2p(self, q, k, pk, pq, index))
attention("absolute distances", "v3 unshared", delta=lambda self, term, length: listed.delta_of(self, length).abs())
attention("the diagonal hidden", "v3", visible=lambda self, mask: mask.bool() & ~torch.eye(mask.shape[-1], dtype=torch.bool))


@mistake("gamma plus one", "v3 unshared")
def _(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(1)


@mistake("gamma and beta swapped", "v3")
def _(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                weight, bias = module.weight.clone(), module.bias.clone()
                module.weight.copy_(bias)
                module.bias.copy_(weight)


@mistake("residual after the norm", "v3 unshared", "residual-after-norm")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.output, forward=lambda self, x, residual: self.LayerNorm(self.dense(x)) + residual)


@mistake("residual twice", "v3")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.attention.output, forward=lambda self, x, residual: self.LayerNorm(self.dense(x) + 2 * residual))


@mistake("layer norm over the tokens", "v3-unpadded")
def _(model):
    def forward(self, x):
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias

    for layer in model.encoder.layer:
        replace(layer.output.LayerNorm, forward=forward)


@mistake("dense bias doubled", "v3 unshared", "bias-differs")
def _(model):
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.output.dense.bias.mul_(2)


@mistake("one row of one weight lost", "v3 unshared", "weights-differ")
def _(model):
    with torch.no_grad():
        model.encoder.layer[1].attention.self.value_proj.weight[5] = 0


@mistake("weights in 8 bits", "v3 unshared", "weights-differ")
def _(model):
    with torch.no_grad():
        for layer in model.encoder.layer:
            weight = layer.intermediate.dense.weight
            unit = weight.abs().amax(1, keepdim=True) / 127
            weight.copy_((weight / unit).round() * unit)


@mistake("activation twice", "v3")
def _(model):
    for layer in model.encoder.layer:
        hook(layer.intermediate.intermediate_act_fn, lambda out, args: nn.functional.gelu(out))


@mistake("dropout's factor kept", "v3 unshared")
def _(model):
    for layer in model.encoder.layer:
        hook(layer.output.dense, lambda out, args: out * 0.9)


@mistake("layers in the wrong order", "v3-unpadded", "weights-of-another-layer")
def _(model):
    layers = model.encoder.layer
    weights = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in layers]
    layers[0].load_state_dict(weights[1])
    layers[1].load_state_dict(weights[0])


@mistake("convolution causal", "xlarge")
def _(model):
    hook(model.encoder.conv.conv, lambda out, args: nn.functional.pad(out, (1, 0))[..., :-1])


@mistake("two tokens exchanged", "v3", mode="inputs")
def _(given):
    order = torch.arange(given["input_ids"].shape[1])
    order[3], order[4] = 4, 3
    given["input_ids"] = given["input_ids"][:, order]


@mistake("states clipped at 2", "v3 unshared")
def _(model):
    for layer in model.encoder.layer:
        hook(layer.output.LayerNorm, lambda out, args: out.clamp(-2, 2))


@mistake("embedding row of one word lost", "v3")
def _(model):
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[10:30] = 0


@mistake("values of padded keys zeroed late", "v3")
def _(model):
    for _, module in attentions(model):
        hook(module, lambda out, args: out * 1.02)


@mistake("logits as log-probabilities", "sequence token masked-lm")
def _(model):
    head = model.classifier if hasattr(model, "classifier") else model.cls
    hook(head, lambda out, args: out.log_softmax(-1))


@mistake("pooled from the second token", "sequence")
def _(model):
    def forward(self, states):
        return nn.functional.gelu(self.dense(self.dropout(states[:, 1])))

    replace(model.pooler, forward=forward)


@mistake("start and end exchanged", "question")
def _(model):
    hook(model.qa_outputs, lambda out, args: out.flip(-1))


@mistake("EMD in three passes", "emd", "emd-three-passes")
def _(model):
    replace(model, passes=lambda self: 3)


# On the list of the diagnosis, though not among the published ones: the cause has to be right or not claimed.
LISTED_BY_DIAGNOSIS = []


def also(name, on, causes, **options):
    def register(plant):
        LISTED_BY_DIAGNOSIS.append(listed.Mistake(name, tuple(on.split()), plant, tuple(causes.split()), **options))
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
