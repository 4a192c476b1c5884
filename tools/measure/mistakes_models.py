"""The models that `mistakes.py` plants mistakes into: transformers' own, at sizes and weights that let a mistake be seen, an
attention in steps that can each be got wrong, and the enhanced mask decoder, which transformers has not."""

import math
import types
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import DebertaV2Config
from transformers.models.deberta_v2 import modeling_deberta_v2 as hf

from common import generator
from dump_activations import step

RELATIVE = dict(
    relative_attention=True, position_buckets=16, max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True,
    pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, max_position_embeddings=64,
    layer_norm_eps=1e-7, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
)  # fmt: skip


def sizes(hidden, heads, layers=3, vocab=97):
    return dict(
        hidden_size=hidden, num_attention_heads=heads, num_hidden_layers=layers, vocab_size=vocab,
        intermediate_size=2 * hidden + 5,
    )  # fmt: skip


@dataclass
class Setting:
    """A configuration with inputs: `table` is the standard deviation of embedding tables, `gain` that of linear weights
    times the root of their inputs."""

    head: type
    config: dict
    length: int = 40
    batch: int = 3
    table: float = 0.02
    gain: float = 1.3
    padding: bool = True
    offset: float = 0.0  # added to the word embeddings
    seed: int = 1
    options: list = field(default_factory=list)  # more arguments of `verify`


V3 = {**RELATIVE, **sizes(48, 3)}
SMALL = {**RELATIVE, **sizes(36, 3, layers=1)}


class EnhancedMaskedLM(nn.Module):
    """Microsoft's masked language model: absolute positions enter before the last layer runs twice more."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.deberta = hf.DebertaV2Model(config)
        self.deberta.embeddings.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.lm_predictions = hf.DebertaV2OnlyMLMHead(config)

    def context(self, states):
        return states[-2]

    def start(self, context, rows):
        return rows + context

    def passes(self):
        return 2

    def forward(self, input_ids, labels, attention_mask=None):
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        encoder = self.deberta.encoder
        states = self.deberta(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        context = self.context(states)
        rows = self.deberta.embeddings.position_embeddings.weight[: input_ids.shape[1]]
        query = step("lm_predictions.z_states", self.start(context, rows.expand_as(context)))
        for _ in range(self.passes()):
            query = encoder.layer[-1](
                context, encoder.get_attention_mask(attention_mask), query_states=query,
                relative_pos=encoder.get_rel_pos(context), rel_embeddings=encoder.get_rel_embedding(),
            )[0]  # fmt: skip
        return {"logits": self.lm_predictions(query[labels > 0], self.deberta.embeddings.word_embeddings)}

    def save_pretrained(self, folder):
        from safetensors.torch import save_file

        self.config.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, f"{folder}/model.safetensors")


SETTINGS = {
    "v3": Setting(hf.DebertaV2Model, V3),
    "v3-unpadded": Setting(hf.DebertaV2Model, V3, padding=False, seed=2),
    "v3-wide": Setting(hf.DebertaV2Model, {**V3, **sizes(128, 4)}, length=56, batch=2, seed=3),
    "unshared": Setting(hf.DebertaV2Model, {**V3, "share_att_key": False, "norm_rel_ebd": "none"}, table=0.4, seed=4),
    "clamped": Setting(
        hf.DebertaV2Model,
        {**V3, "position_buckets": -1, "max_relative_positions": 12, "share_att_key": False}, table=0.3, seed=5,
    ),
    "c2p-alone": Setting(hf.DebertaV2Model, {**V3, "pos_att_type": ["c2p"]}, table=0.1, seed=6),
    "p2c-alone": Setting(hf.DebertaV2Model, {**V3, "pos_att_type": ["p2c"], "share_att_key": False}, table=0.1, seed=7),
    "xlarge": Setting(
        hf.DebertaV2Model, {**V3, "conv_kernel_size": 3, "conv_act": "gelu", "position_buckets": 12}, table=0.1, seed=8
    ),
    "xlarge-sigmoid": Setting(
        hf.DebertaV2Model, {**V3, "conv_kernel_size": 3, "conv_act": "sigmoid"}, table=0.1, seed=9
    ),
    "everything": Setting(
        hf.DebertaV2Model,
        {**V3, "position_biased_input": True, "type_vocab_size": 3, "embedding_size": 20, "share_att_key": False,
         "conv_kernel_size": 5, "conv_groups": 3, "pad_token_id": 1}, table=0.3, seed=10,
    ),
    "absolute": Setting(
        hf.DebertaV2Model,
        {**V3, "relative_attention": False, "pos_att_type": None, "position_biased_input": True, "type_vocab_size": 2},
        table=0.05, seed=11,
    ),
    "offset": Setting(hf.DebertaV2Model, V3, offset=2.0, seed=12),
    "masked-lm": Setting(hf.DebertaV2ForMaskedLM, {**SMALL, "legacy": True}, table=0.1, seed=13),
    "masked-lm-new": Setting(hf.DebertaV2ForMaskedLM, {**SMALL, "legacy": False}, table=0.1, seed=14),
    "sequence": Setting(hf.DebertaV2ForSequenceClassification, {**SMALL, "num_labels": 5}, table=0.1, seed=15),
    "token": Setting(hf.DebertaV2ForTokenClassification, {**SMALL, "num_labels": 7}, table=0.1, seed=16),
    "question": Setting(hf.DebertaV2ForQuestionAnswering, {**SMALL, "num_labels": 2}, table=0.1, seed=17),
    "emd": Setting(
        EnhancedMaskedLM, {**V3, "legacy": False}, table=0.1, padding=False, seed=18,
        options=["--head", "enhanced-masked-lm", "--profile", "microsoft"],
    ),
}  # fmt: skip


def fill(model, setting):
    """Random weights of the size that trained ones have: a layer keeps the size of what passes through it."""
    g = generator(setting.seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if name.endswith("LayerNorm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.2 * noise)
            elif "embeddings" in name:
                p.copy_(setting.table * noise + (setting.offset if "word_embeddings" in name else 0))
            else:
                p.copy_(setting.gain * noise / math.sqrt(p[0].numel()))
    return model.eval()


def make(setting):
    """The model, in f32 and evaluation mode."""
    return fill(setting.head(DebertaV2Config(**setting.config, attn_implementation="eager")), setting)


def inputs(setting, model):
    g, shape = generator(setting.seed + 1000), (setting.batch, setting.length)
    given = {"input_ids": torch.randint(4, model.config.vocab_size, shape, generator=g)}
    if setting.padding:
        mask = torch.ones(shape, dtype=torch.int64)
        for row in range(1, setting.batch):
            mask[row, setting.length - row * setting.length // 5 :] = 0
        given["attention_mask"] = mask
        given["input_ids"] = given["input_ids"].masked_fill(mask == 0, model.config.pad_token_id)
    if model.config.type_vocab_size > 0:
        given["token_type_ids"] = torch.randint(0, model.config.type_vocab_size, shape, generator=g)
    if setting.head is EnhancedMaskedLM:
        given["labels"] = given["input_ids"] * (torch.rand(shape, generator=g) < 0.3)
    return given


class SteppedAttention(hf.DisentangledSelfAttention):
    """The attention in steps, each a method that a mistake can replace. Right, it is its base class to rounding."""

    def split(self, x):
        return x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)  # [B, H, L, D]

    def merge(self, x):
        return x.transpose(1, 2).flatten(2)

    def project(self, states, query_states):
        return self.query_proj(query_states), self.key_proj(states), self.value_proj(states)

    def row_projections(self):
        """The modules that project relative rows to keys and to queries."""
        if self.share_att_key:
            return self.key_proj, self.query_proj
        return getattr(self, "pos_key_proj", None), getattr(self, "pos_query_proj", None)

    def rows(self, rel_embeddings):
        return rel_embeddings[: 2 * self.pos_ebd_size].unsqueeze(0)

    def factor(self, term):
        return 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)

    def scale(self, term):
        return math.sqrt(self.attention_head_size * self.factor(term))

    def delta(self, term, length):
        """δ(i, j): rows are queries, columns keys."""
        states = torch.zeros(1, length, 1)
        return hf.build_relative_position(states, states, self.position_buckets, self.max_relative_positions)[0]

    def column(self, term, delta):
        return (delta + self.pos_ebd_size).clamp(0, 2 * self.pos_ebd_size - 1)

    def take(self, products, index):
        """products[…, i, index[i, j]]"""
        return torch.gather(products, -1, index.expand(*products.shape[:2], *index.shape))

    def c2c(self, query, key):
        return query @ key.transpose(-1, -2)

    def c2p(self, query, key, pos_key, pos_query, index):
        return self.take(query @ pos_key.transpose(-1, -2), index)

    def p2c(self, query, key, pos_key, pos_query, index):
        return self.take(key @ pos_query.transpose(-1, -2), index.T).transpose(-1, -2)

    def visible(self, mask):
        return mask.bool()

    def masked(self, scores, visible):
        return scores.masked_fill(~visible, torch.finfo(scores.dtype).min)

    def probabilities(self, scores):
        return scores.softmax(-1)

    def context(self, probs, value):
        return probs @ value

    def forward(self, hidden_states, attention_mask, output_attentions=False, query_states=None, relative_pos=None, rel_embeddings=None):
        query_states = hidden_states if query_states is None else query_states
        query, key, value = map(self.split, self.project(hidden_states, query_states))
        query, key = self.prepare(query, key)
        scores = step(f"{self.path}.c2c", self.c2c(query, key) / self.scale("c2c"))
        if self.relative_attention:
            scores = self.add_relative(scores, query, key, rel_embeddings)
        step(f"{self.path}.scores", scores)
        probs = step(f"{self.path}.probs", self.probabilities(self.masked(scores, self.visible(attention_mask))))
        return self.merge(self.context(self.dropout(probs), value)), probs

    def prepare(self, query, key):
        return query, key

    def add_relative(self, scores, query, key, rel_embeddings):
        to_keys, to_queries = self.row_projections()
        rows = self.rows(rel_embeddings)
        pos_key = self.split(to_keys(rows)) if "c2p" in self.pos_att_type else None
        pos_query = self.split(to_queries(rows)) if "p2c" in self.pos_att_type else None
        for term in ("c2p", "p2c"):
            if term in self.pos_att_type:
                index = self.column(term, self.delta(term, query.shape[-2]))
                products = getattr(self, term)(query, key, pos_key, pos_query, index)
                scores = scores + step(f"{self.path}.{term}", products / self.scale(term))
        return scores


def attentions(model):
    return [(p, m) for p, m in model.named_modules() if isinstance(m, hf.DisentangledSelfAttention)]


def in_steps(model):
    """Every attention in steps."""
    for path, module in attentions(model):
        module.__class__, module.path = SteppedAttention, path
    return model


def replace(module, **methods):
    """Replaces methods of one object; each gets the object, as a method does."""
    for name, function in methods.items():
        setattr(module, name, types.MethodType(function, module))
