"""The inputs of the golden cases, under the names that the contract gives them. All of them are functions of a seed."""

import torch

from common import generator


class Inputs:
    """Builds the tensors of one run for one configuration, step by step: `Inputs(config, seed, B, L).ids().mask("right")`."""

    def __init__(self, config, seed, batch, length, choices=None):
        self.config, self.g = config, generator(seed)
        self.shape = (batch, choices, length) if choices else (batch, length)
        self.tensors = {}

    def put(self, name, tensor):
        self.tensors[name] = tensor
        return self

    def integers(self, low, high, shape=None):
        return torch.randint(low, high, shape or self.shape, generator=self.g)

    def normal(self, shape):
        # Values that f32 holds exactly, so that both precisions start from the same numbers.
        return torch.randn(shape, generator=self.g).double()

    def ids(self):
        return self.put("input_ids", self.integers(0, self.config.vocab_size))

    def embeds(self):
        width = getattr(self.config, "embedding_size", self.config.hidden_size)
        return self.put("inputs_embeds", 0.7 * self.normal((*self.shape, width)).float().double())

    def mask(self, kind, dtype=torch.int64):
        """`right`, `left`, `inside`: where the padding lies; the first row has none. `row`: as `right`, and the last row is
        nothing but padding. `keys`: as `right`, of shape [B, 1, 1, L]: masks keys alone."""
        length = self.shape[-1]
        flat = torch.ones(self.shape, dtype=torch.int64).reshape(-1, length)
        rows = flat.shape[0]
        for i in range(1, rows):
            n = max(1, (i * length) // (rows + 1))
            if kind in ("right", "row", "keys"):
                flat[i, length - n :] = 0
            elif kind == "left":
                flat[i, :n] = 0
            else:
                flat[i, torch.randperm(length - 1, generator=self.g)[:n] + 1] = 0
        if kind == "row":
            flat[-1] = 0
        mask = flat[:, None, None, :] if kind == "keys" else flat.reshape(self.shape)
        return self.put("attention_mask", mask.to(dtype))

    def types(self, count=None):
        return self.put("token_type_ids", self.integers(0, count or self.config.type_vocab_size))

    def positions(self):
        return self.put("position_ids", self.integers(0, self.config.max_position_embeddings))

    def labels(self, low, high, shape=None, ignored=()):
        """Class labels in [low, high); at the flat places `ignored`, −100."""
        labels = self.integers(low, high, shape)
        labels.view(-1)[list(ignored)] = -100
        return self.put("labels", labels)

    def float_labels(self, shape, kind="normal"):
        """Targets: normal numbers, rows that sum to one, or zeros and ones."""
        t = self.normal(shape)
        t = {"normal": t, "distribution": t.softmax(-1), "binary": (t > 0).double()}[kind]
        return self.put("labels", t.float().double())

    def spans(self, starts, ends):
        return self.put("start_positions", torch.tensor(starts)).put("end_positions", torch.tensor(ends))
