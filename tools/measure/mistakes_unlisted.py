"""Mistakes that are on no list: whoever diagnoses has not been told of them, and must not be sure of a wrong cause.

`causes` names what may be said of one with confidence, where another mistake computes the same numbers."""

import math

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


attention("softmax to the base two", "v3 unshared", dtypes=("f32", "bf16"), probabilities=lambda self, s: torch.where(s > -1e30, s * math.log(2), s).softmax(-1))
attention("the mask moved by a token", "v3 unshared", visible=lambda self, mask: mask.bool().roll(1, -1))
attention("the mask added as it is", "v3", masked=lambda self, scores, visible: scores + visible)
attention("the last key left out", "v3-unpadded", visible=lambda self, mask: mask.bool() & (torch.arange(mask.shape[-1]) < mask.shape[-1] - 1))
attention("keys shared by the heads", "v3 unshared", prepare=lambda self, q, k: (q, k[:, :1].expand_as(k)))
attention("queries of two heads exchanged", "v3", prepare=lambda self, q, k: (q[:, [1, 0, 2]], k))
attention("relative rows moved by three", "v3 unshared", rows=lambda self, rel: rel[: 2 * self.pos_ebd_size].roll(3, 0).unsqueeze(0))
attention("every second relative row twice", "v3 unshared", rows=lambda self, rel: rel[: 2 * self.pos_ebd_size : 2].repeat_interleave(2, 0).unsqueeze(0))
attention("positions start anew in the middle", "v3-unpadded", delta=lambda self, term, length: listed.right_delta(torch.zeros(1, length, 1), torch.zeros(1, length, 1), self.position_buckets, self.max_relative_positions)[0].roll((length // 2, length // 2), (0, 1)))
attention("c2p scaled by nine tenths", "v3 unshared", c2p=lambda self, q, k, pk, pq, index: 0.9 * SteppedAttention.c2p(self, q, k, pk, pq, index))
attention("c2p and p2c averaged", "v3", c2p=lambda self, *a: (SteppedAttention.c2p(self, *a) + SteppedAttention.p2c(self, *a)) / 2, p2c=lambda self, *a: (SteppedAttention.c2p(self, *a) + SteppedAttention.p2c(self, *a)) / 2)
attention("probabilities squared", "v3-unpadded", probabilities=lambda self, s: s.softmax(-1) ** 2)


def norms_of(name, on, forward, dtypes=("f32",)):
    mistake(name, on, dtypes=dtypes)(lambda model: listed.norms(model, forward))


def approximate_root(x):
    """1/√x by a shift of the exponent and one step of Newton's."""
    bits = 0x5F3759DF - (x.float().view(torch.int32) >> 1)
    y = bits.view(torch.float32).to(x.dtype)
    return y * (1.5 - 0.5 * x * y * y)


def normed(self, x, mean, factor):
    return (x - mean) * factor * self.weight + self.bias


norms_of("an approximate root", "v3 offset absolute", lambda self, x: normed(self, x, x.mean(-1, keepdim=True), approximate_root(x.var(-1, keepdim=True, unbiased=False) + self.eps)))
norms_of("variance of half of the features", "v3 offset", lambda self, x: normed(self, x, x.mean(-1, keepdim=True), (x[..., ::2].var(-1, keepdim=True, unbiased=False) + self.eps).rsqrt()))
norms_of("mean of all tokens", "v3-unpadded", lambda self, x: normed(self, x, x.mean((-1, -2), keepdim=True), (x.var(-1, keepdim=True, unbiased=False) + self.eps).rsqrt()))
norms_of("deviation for variance", "v3 unshared", lambda self, x: normed(self, x, x.mean(-1, keepdim=True), 1 / (x - x.mean(-1, keepdim=True)).abs().mean(-1, keepdim=True)))
norms_of("variance a little noisy", "offset v3", lambda self, x: normed(self, x, x.mean(-1, keepdim=True), (x.var(-1, keepdim=True, unbiased=False) * (1 + 3e-4 * torch.sin(1e5 * x[..., :1])) + self.eps).rsqrt()))


@mistake("hard swish for GELU", "v3 unshared")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.intermediate.intermediate_act_fn, forward=lambda self, x: nn.functional.hardswish(x))


@mistake("ELU for GELU", "v3")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.intermediate.intermediate_act_fn, forward=lambda self, x: nn.functional.elu(x))


@mistake("residual weakened", "v3 unshared")
def _(model):
    for layer in model.encoder.layer:
        replace(layer.output, forward=lambda self, x, residual: self.LayerNorm(self.dense(x) + residual / 2**0.5))


@mistake("a layer run twice", "v3-unpadded unshared")
def _(model):
    layer = model.encoder.layer[1]
    inner = layer.forward

    def forward(self, states, *args, **kwargs):
        first = inner(states, *args, **kwargs)
        return inner(first[0] if isinstance(first, tuple) else first, *args, **kwargs)

    replace(layer, forward=forward)


@mistake("position keys of the first layer in all", "unshared", "weights-of-another-layer")
def _(model):
    for layer in model.encoder.layer[1:]:
        layer.attention.self.pos_key_proj.load_state_dict(model.encoder.layer[0].attention.self.pos_key_proj.state_dict())


@mistake("embeddings normed twice", "v3 absolute")
def _(model):
    norm = model.embeddings.LayerNorm
    hook(norm, lambda out, args: nn.functional.layer_norm(out, out.shape[-1:], norm.weight, norm.bias, norm.eps))


@mistake("embeddings in 8 bits", "v3 absolute", "weights-differ")
def _(model):
    with torch.no_grad():
        weight = model.embeddings.word_embeddings.weight
        unit = weight.abs().amax(1, keepdim=True) / 127
        weight.copy_((weight / unit).round() * unit)


@mistake("weights in bf16, computed in f32", "v3 unshared", "weights-differ")
def _(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(module.weight.bfloat16().float())


@mistake("positions of a sine", "absolute")
def _(model):
    with torch.no_grad():
        weight = model.embeddings.position_embeddings.weight
        at = torch.arange(weight.shape[0])[:, None] / 10000 ** (torch.arange(weight.shape[1]) / weight.shape[1])
        weight.copy_(0.05 * torch.where(torch.arange(weight.shape[1]) % 2 == 0, at.sin(), at.cos()))


@mistake("token types the other way round", "everything absolute")
def _(model):
    with torch.no_grad():
        weight = model.embeddings.token_type_embeddings.weight
        weight.copy_(weight.flip(0).clone())


@mistake("every token one id higher", "v3", mode="inputs")
def _(given):
    given["input_ids"] = torch.where(given["attention_mask"] > 0, given["input_ids"] % 96 + 1, given["input_ids"])


@mistake("the first token dropped", "v3-unpadded", mode="inputs")
def _(given):
    given["input_ids"] = given["input_ids"].roll(-1, 1)


@mistake("convolution with holes", "xlarge")
def _(model):
    conv = model.encoder.conv.conv
    conv.dilation, conv.padding = (2,), (2,)


@mistake("convolution padded with copies", "xlarge")
def _(model):
    conv = model.encoder.conv.conv

    def forward(self, x):
        return nn.functional.conv1d(nn.functional.pad(x, (1, 1), mode="replicate"), self.weight, self.bias)

    replace(conv, forward=forward)


@mistake("pooled from another sequence", "sequence")
def _(model):
    def forward(self, states):
        return nn.functional.gelu(self.dense(self.dropout(states[:, 0].roll(1, 0))))

    replace(model.pooler, forward=forward)


@mistake("decoder bias of other words", "masked-lm", "bias-differs")
def _(model):
    with torch.no_grad():
        model.cls.predictions.bias.copy_(model.cls.predictions.bias.roll(1))


@mistake("logits at a temperature", "sequence token masked-lm")
def _(model):
    head = model.classifier if hasattr(model, "classifier") else model.cls
    hook(head, lambda out, args: out / 1.3)
