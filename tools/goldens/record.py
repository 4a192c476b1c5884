"""Records what a PyTorch model computes: the outputs, every module's output, and the finer steps of the attention.

Nothing here computes a step of the model again. Module outputs come from forward hooks; the steps inside
`DisentangledSelfAttention`, which is not divided into modules, are picked up by watching the torch functions it calls.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

DIVISIONS = {"div", "__truediv__", "true_divide", "__itruediv__"}


def first_tensor(output):
    """The tensor that stands for a module's output: itself, or the first one of a tuple, list or ModelOutput."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


class AttentionSteps(TorchFunctionMode):
    """Picks the terms of the score out of one call of `DisentangledSelfAttention.forward`.

    The call is a fixed sequence: the product of queries and keys; then, for c2p and p2c in this order and as far as they
    are on, a product with relative rows, a gather, and a division by the scale; then the sum, and its masked fill.
    """

    def __init__(self, heads, terms):
        super().__init__()
        self.heads, self.pending, self.steps, self.gathered = heads, list(terms), {}, False

    def finish(self, output):
        """What only the module's own output shows. 4.x zeroes probabilities after the softmax."""
        self.steps["probs"] = output[1].detach().clone()

    def split_heads(self, t):
        return t.detach().clone().reshape(-1, self.heads, *t.shape[-2:])

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "bmm" and "c2c" not in self.steps:
            self.steps["c2c"] = self.split_heads(out)
        elif name == "gather":
            self.gathered = True
        elif name in DIVISIONS and self.gathered:
            self.steps[self.pending.pop(0)], self.gathered = self.split_heads(out), False
        elif name == "masked_fill" and "scores" not in self.steps:
            self.steps["scores"] = self.split_heads(args[0])
        return out


def is_recorded(path, module):
    """The root is the outputs themselves; dropout is the identity here, and what enters it is recorded already, except
    in the convolution layer, where it holds the convolution after masking."""
    if path == "" or isinstance(module, nn.ModuleList):
        return False
    is_dropout = type(module).__name__.endswith("Dropout")
    return not is_dropout or path.endswith("encoder.conv.dropout")


def relative_rows_name(path):
    """With `share_att_key`, key_proj and query_proj are called again on the relative rows."""
    head, _, leaf = path.rpartition(".")
    assert leaf in ("key_proj", "query_proj"), f"{path} is called twice"
    return f"{head}.pos_{leaf}"


def relative_terms(config):
    """Which relative terms the attention adds."""
    types = config.pos_att_type or []
    return [t for t in ("c2p", "p2c") if t in types] if config.relative_attention else []


@contextmanager
def recording(model, config, attention_class, steps_class=AttentionSteps, skip=()):
    """Fills the yielded dict with every intermediate of one forward pass of `model`, except the paths in `skip`."""
    trace, undo = {}, []
    terms = relative_terms(config)

    def hook(path):
        def record(_module, _args, output):
            tensor = first_tensor(output)
            if tensor is None:
                return
            if path not in trace:
                trace[path] = tensor.detach().clone()
            else:
                name = relative_rows_name(path)
                if ("c2p" if name.endswith("pos_key_proj") else "p2c") in terms:
                    trace[name] = tensor.detach().clone()

        return record

    def watch_attention(path, module):
        original = module.forward

        def forward(*args, **kwargs):
            with steps_class(config.num_attention_heads, terms) as steps:
                output = original(*args, **kwargs)
            steps.finish(output)
            expected = {"c2c", "scores", "probs", *terms}
            assert set(steps.steps) == expected, f"{path}: {sorted(steps.steps)} instead of {sorted(expected)}"
            for name, tensor in steps.steps.items():
                trace[f"{path}.{name}"] = tensor
            return output

        module.forward = forward
        undo.append(lambda: delattr(module, "forward"))

    for path, module in model.named_modules():
        if is_recorded(path, module) and path not in skip:
            undo.append(module.register_forward_hook(hook(path)).remove)
        if isinstance(module, attention_class):
            watch_attention(path, module)
    try:
        yield trace
    finally:
        for action in undo:
            action()
