"""A small DeBERTa-v2 with the enhanced mask decoder, to train: plain PyTorch, parameters under the names of checkpoints.

It computes what Microsoft's code computes (profile `microsoft`), arranged so that training on a processor is quick: a
position term is one product with the rows of the distances that occur, sheared into place, and no gather for each score.
`export.py` writes it as a checkpoint; the test `shipped_model` holds deberta-ref to what it measures.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

CONFIG = {
    "model_type": "deberta-v2",
    "vocab_size": 4004,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 128,
    "type_vocab_size": 0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "position_buckets": 32,
    "max_relative_positions": 128,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "conv_kernel_size": 3,
    "conv_act": "gelu",
    "pad_token_id": 0,
    "pooler_hidden_size": 128,
    "pooler_hidden_act": "gelu",
    "pooler_dropout": 0.0,
    "legacy": False,
}
EMD_PASSES = 2


def bucket(distance, buckets, maximum):
    """The logarithmic bucket of a distance (appendix A.5 of the v3 paper's code; `make_log_bucket_position`)."""
    middle = buckets // 2
    if abs(distance) <= middle:
        return distance
    steps = math.log(abs(distance) / middle) / math.log((maximum - 1) / middle) * (middle - 1)
    return int(math.copysign(math.ceil(steps) + middle, distance))


def shear(scores):
    """[..., L, 2L - 1] by distance i - j = L - 1 … -(L - 1), to [..., L, L] by key: entry (i, j) is column L - 1 - i + j."""
    *lead, length, width = scores.shape
    flat = F.pad(scores, (0, 1)).reshape(*lead, length * (width + 1))[..., : length * width]
    return flat.reshape(*lead, length, width)[..., length - 1 :]


class Norm(nn.LayerNorm):
    def __init__(self, width):
        super().__init__(width, eps=CONFIG["layer_norm_eps"])


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.query_proj, self.key_proj, self.value_proj = (nn.Linear(width, width) for _ in range(3))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # [..., H, L, D]

    def forward(self, queries, states, bias, rows, at=None):
        """`at` [B, M]: the places of the queries, where there are not as many as states."""
        q, k, v = self.split(self.query_proj(queries)), self.split(self.key_proj(states)), self.split(self.value_proj(states))
        position_keys, position_queries = self.split(self.key_proj(rows)), self.split(self.query_proj(rows))  # [H, 2L - 1, D]
        c2p = q @ position_keys.transpose(-1, -2)  # [B, H, L or M, 2L - 1]
        # p2c[i, j] = K_j · PosQ[i - j]: by key and the distance j - i, which is the rows the other way round.
        p2c = shear(k @ position_queries.flip(-2).transpose(-1, -2)).transpose(-1, -2)  # [B, H, L, L]
        if at is None:
            c2p = shear(c2p)
        else:
            length = k.shape[-2]
            columns = length - 1 - at[:, None, :, None] + torch.arange(length)  # [B, 1, M, L]
            c2p = c2p.gather(-1, columns.expand(-1, self.heads, -1, -1))
            p2c = p2c.gather(-2, at[:, None, :, None].expand(-1, self.heads, -1, length))
        scores = q @ k.transpose(-1, -2) + c2p + p2c
        probs = (scores / math.sqrt(3 * q.shape[-1]) + bias).softmax(-1)
        return (probs @ v).transpose(-3, -2).flatten(-2)


class Output(nn.Module):
    def __init__(self, inner, width):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, width), Norm(width)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.self, self.output = SelfAttention(width, heads), Output(width, width)


class Intermediate(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.dense = nn.Linear(width, inner)


class Layer(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.attention = Attention(width, heads)
        self.intermediate, self.output = Intermediate(width, inner), Output(inner, width)

    def forward(self, queries, states, bias, rows, at=None):
        x = self.attention.output(self.attention.self(queries, states, bias, rows, at), queries)
        return self.output(F.gelu(self.intermediate.dense(x)), x)


class Conv(nn.Module):
    def __init__(self, width, kernel):
        super().__init__()
        self.conv, self.LayerNorm = nn.Conv1d(width, width, kernel, padding=kernel // 2), Norm(width)

    def forward(self, embeddings, states, mask):
        convolved = self.conv(embeddings.transpose(1, 2)).transpose(1, 2) * mask
        return self.LayerNorm(states + F.gelu(convolved)) * mask


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["hidden_size"]
        self.layer = nn.ModuleList(
            Layer(width, c["num_attention_heads"], c["intermediate_size"]) for _ in range(c["num_hidden_layers"])
        )
        self.rel_embeddings = nn.Embedding(2 * c["position_buckets"], width)
        self.LayerNorm = Norm(width)
        self.conv = Conv(width, c["conv_kernel_size"])


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.word_embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.position_embeddings = nn.Embedding(c["max_position_embeddings"], c["hidden_size"])
        self.LayerNorm = Norm(c["hidden_size"])


class Deberta(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(c), Encoder(c)


class Head(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(c["hidden_size"], c["hidden_size"]), Norm(c["hidden_size"])
        self.bias = nn.Parameter(torch.zeros(c["vocab_size"]))


class Predictions(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.lm_head = Head(c)


class MaskedLanguageModel(nn.Module):
    def __init__(self, c=CONFIG):
        super().__init__()
        self.config = c
        self.deberta, self.lm_predictions = Deberta(c), Predictions(c)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
                nn.init.normal_(module.weight, std=c["initializer_range"])
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, ids, mask, at):
        """Logits [B, M, V] at the places `at` [B, M] of each sequence; `mask` [B, L] says which tokens exist."""
        c, embeddings, encoder = self.config, self.deberta.embeddings, self.deberta.encoder
        length, span = ids.shape[1], c["position_buckets"]
        distances = [bucket(d, span, c["max_relative_positions"]) for d in range(length - 1, -length, -1)]
        slots = torch.tensor([min(max(d + span, 0), 2 * span - 1) for d in distances])
        rows = encoder.LayerNorm(encoder.rel_embeddings.weight)[slots]  # [2L - 1, E]
        exists = mask[..., None].to(rows.dtype)  # [B, L, 1]
        bias = torch.zeros(mask.shape, dtype=rows.dtype).masked_fill(~mask, -1e9)[:, None, None]  # [B, 1, 1, L]

        embedded = embeddings.LayerNorm(embeddings.word_embeddings(ids)) * exists
        states = embedded
        for i, layer in enumerate(encoder.layer[:-1]):
            states = layer(states, states, bias, rows)
            if i == 0:
                states = encoder.conv(embedded, states, exists)
        # The enhanced mask decoder: the last layer, run twice over the states before it, from absolute positions.
        # A pass changes a query by its own row alone, so only the places to predict need one.
        queries = states.gather(1, at[..., None].expand(-1, -1, states.shape[-1])) + embeddings.position_embeddings(at)
        for _ in range(EMD_PASSES):
            queries = encoder.layer[-1](queries, states, bias, rows, at)
        head = self.lm_predictions.lm_head
        x = head.LayerNorm(F.gelu(head.dense(queries)))
        return x @ embeddings.word_embeddings.weight.T + head.bias
