#!/usr/bin/env python3
"""Dumps what a PyTorch model computes, step by step, for `deberta-ref verify` and `deberta-ref compare`.

Copy this one file to where your model runs. It needs torch and safetensors; --model and --text need transformers.

    python dump_activations.py --model DIR --text "A sentence." --out dump.safetensors
    python dump_activations.py --model DIR --inputs inputs.safetensors --out dump.safetensors --dtype bf16 --device cuda
    deberta-ref verify --model DIR --golden dump.safetensors

For a model of your own:

    from dump_activations import dump, step

    dump(model, {"input_ids": ids, "attention_mask": mask}, "dump.safetensors",
         rename=lambda name: name.replace("blocks.", "deberta.encoder.layer."))

`dump` records what every module returns, under its path in `named_modules`, and the model's outputs. A step that is not a
module is recorded where your code says `step("deberta.encoder.layer.0.attention.self.c2p", c2p)`; outside of a dump that
costs nothing. In the DeBERTa-v2 of transformers, and in code that descends from it, the steps of the attention are found
without a change to the code:

    ….attention.self.c2c, .c2p, .p2c    the terms of the score, scaled and gathered         [B, H, Q, K]
    ….attention.self.scores, .probs     their sum before the mask; after mask and softmax   [B, H, Q, K]
    ….attention.self.pos_key_proj, .pos_query_proj   the relative rows, also where share_att_key makes these calls of
                                                     key_proj and query_proj                [1, R, E]

Names without a place in DeBERTa are harmless: `deberta-ref` compares what both sides have. The model runs in the mode that
it is in: a dropout left on is a mistake worth finding, so it is warned about and not switched off.
"""

import argparse
import re
import sys
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

INPUTS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels", "start_positions",
    "end_positions",
)  # fmt: skip
DTYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
STEPS = ("c2c", "c2p", "p2c", "scores", "probs")
DIVISIONS = {"div", "__truediv__", "true_divide", "__itruediv__"}

_traces = []  # the recordings that are running and the names they give, the innermost last


def step(name, tensor):
    """Records a step that is no module, if a dump is being made. Returns the tensor."""
    if _traces:
        trace, names = _traces[-1]
        trace[names.of_step(name)] = copied(tensor)
    return tensor


def copied(tensor):
    """The values as they are now: what follows may change them in place."""
    return tensor.detach().to("cpu", copy=True).contiguous()


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
    """Picks the terms of the score out of one call of `DisentangledSelfAttention.forward`, by watching torch's functions.

    The call is a fixed sequence: the product of queries and keys; then, for c2p and p2c in this order and as far as they
    are on, a product with relative rows, a gather, and a division by the scale; then the sum, and its masked fill.
    Nothing is computed again.
    """

    def __init__(self, heads, terms):
        super().__init__()
        self.heads, self.pending, self.steps, self.gathered = heads, list(terms), {}, False

    def finish(self, output):
        """What only the module's own output shows. 4.x zeroes probabilities after the softmax."""
        if isinstance(output, tuple) and len(output) > 1 and output[1] is not None:
            self.steps["probs"] = copied(output[1])

    def split_heads(self, t):
        return copied(t).reshape(-1, self.heads, *t.shape[-2:])

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "bmm" and "c2c" not in self.steps:
            self.steps["c2c"] = self.split_heads(out)
        elif name == "gather":
            self.gathered = True
        elif name in DIVISIONS and self.gathered and self.pending:
            self.steps[self.pending.pop(0)], self.gathered = self.split_heads(out), False
        elif name == "masked_fill" and "scores" not in self.steps:
            self.steps["scores"] = self.split_heads(args[0])
        elif name == "softmax" and "probs" not in self.steps:
            self.steps["probs"] = self.split_heads(out)
        return out


def is_disentangled(module):
    """Also of a class derived from it. The first DeBERTa's attention has the same name and other parts."""
    names = (c.__name__ for c in type(module).__mro__)
    return "DisentangledSelfAttention" in names and hasattr(module, "query_proj")


def is_recorded(path, module):
    """The root is the outputs themselves. Dropout is the identity in evaluation, and what enters it is recorded already,
    except in the convolution layer, where it holds the convolution after masking."""
    if path == "" or isinstance(module, nn.ModuleList):
        return False
    is_dropout = type(module).__name__.endswith("Dropout")
    return not is_dropout or path.endswith("encoder.conv.dropout")


def relative_terms(config):
    """Which relative terms the attention adds, in the order in which it does."""
    types = getattr(config, "pos_att_type", None) or []
    return [t for t in ("c2p", "p2c") if t in types] if getattr(config, "relative_attention", False) else []


class Names:
    """The name of each call of a module: its path, and something more where it is not the first.

    Within one call of an attention, a second call of key_proj is `pos_key_proj`: with `share_att_key` it projects the
    relative rows. A layer that runs again is a pass of the enhanced mask decoder, `lm_predictions.emd.N`. Whatever else
    runs again is `path:2`, `path:3` …
    """

    def __init__(self, terms):
        self.terms, self.calls, self.entered = terms, {}, {}

    def enter_attention(self, path):
        self.entered[path] = self.entered.get(path, 0) + 1
        for leaf in ("query_proj", "key_proj"):
            self.calls.pop(f"{path}.{leaf}", None)

    def again(self, name, call):
        if call == 1:
            return name
        layer = re.search(r"encoder\.layer\.\d+", name)
        return f"lm_predictions.emd.{call - 2}{name[layer.end() :]}" if layer else f"{name}:{call}"

    def of_step(self, name):
        return self.again(name, self.entered.get(name.rpartition(".")[0], 1))

    def of(self, path):
        """`None` for what nothing reads."""
        call = self.calls[path] = self.calls.get(path, 0) + 1
        attention, _, leaf = path.rpartition(".")
        if attention not in self.entered or leaf not in ("query_proj", "key_proj"):
            return self.again(path, call)
        if call > 1 and {"key_proj": "c2p", "query_proj": "p2c"}[leaf] not in self.terms:
            return None
        return self.again(path if call == 1 else f"{attention}.pos_{leaf}", self.entered[attention])


@contextmanager
def recording(model, config=None, is_attention=is_disentangled, steps_class=AttentionSteps, skip=(), strict=False):
    """Fills the yielded dict with every intermediate of one forward pass of `model`, except the paths in `skip`.

    `strict`: an attention whose steps cannot be told apart is an error, and not just a warning.
    """
    config = config if config is not None else getattr(model, "config", None)
    terms = relative_terms(config)
    trace, names, undo = {}, Names(terms), []

    def hook(path):
        def record(_module, _args, output):
            tensor, name = first_tensor(output), names.of(path)
            if tensor is not None and name is not None:
                trace[name] = copied(tensor)

        return record

    def watch_attention(path, module):
        original = module.forward

        def forward(*args, **kwargs):
            names.enter_attention(path)
            with steps_class(config.num_attention_heads, terms) as watch:
                output = original(*args, **kwargs)
            watch.finish(output)
            # Steps that the code recorded itself are not looked for.
            own = {s for s in STEPS if names.of_step(f"{path}.{s}") in trace}
            unseen = {"c2c", "scores", "probs", *terms} - set(watch.steps) - own
            if unseen:
                message = f"{path}: cannot tell {', '.join(sorted(unseen))} from what the module calls"
                if strict:
                    raise AssertionError(message)
                print(f"dump_activations: {message}; left out", file=sys.stderr)
            for name in (s for s in STEPS if s in watch.steps and s not in own):
                trace[names.of_step(f"{path}.{name}")] = watch.steps[name]
            return output

        module.forward = forward
        undo.append(lambda: delattr(module, "forward"))

    _traces.append((trace, names))
    try:
        for path, module in model.named_modules():
            if is_recorded(path, module) and path not in skip:
                undo.append(module.register_forward_hook(hook(path)).remove)
            if is_attention(module) and hasattr(config, "num_attention_heads"):
                watch_attention(path, module)
        yield trace
    finally:
        _traces.pop()
        for action in undo:
            action()


def named_outputs(output):
    """The model's outputs by name: the keys of a ModelOutput or dict, with a number where there is one for each layer."""
    if isinstance(output, torch.Tensor):
        return {"output": copied(output)}
    if isinstance(output, (tuple, list)):
        output = {f"output.{i}": part for i, part in enumerate(output)}
    named = {}
    for key, value in output.items():
        if isinstance(value, torch.Tensor):
            named[key] = copied(value)
        elif isinstance(value, (tuple, list)):
            named.update({f"{key}.{i}": copied(t) for i, t in enumerate(value) if isinstance(t, torch.Tensor)})
    return named


def run_model(model, inputs):
    """transformers models hand out their hidden states and attentions if asked; others are just called."""
    if hasattr(model, "config") and hasattr(model, "from_pretrained"):
        return model(**inputs, output_hidden_states=True, output_attentions=True, return_dict=True)
    return model(**inputs)


def dump(model, inputs, path, rename=None, only=("*",), run=run_model):
    """Runs `model` on `inputs` and writes inputs, outputs and every intermediate to the safetensors file `path`.

    `inputs` maps names to tensors, on the model's device. `rename` maps each name of an intermediate or output to the name
    it gets in the file, or to None to leave it out; `only` are patterns of which a name has to match one (inputs are always
    kept). `run(model, inputs)` calls a model whose arguments have other names. Returns what was written.
    """
    from safetensors.torch import save_file

    left_on = [p for p, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p]
    if left_on:
        print(f"dump_activations: dropout is on in {left_on[0]} and {len(left_on) - 1} more: the model is in training "
              "mode, and no two dumps of it agree; model.eval() turns it off", file=sys.stderr)  # fmt: skip
    given = {name: copied(tensor) for name, tensor in inputs.items()}
    with torch.no_grad(), recording(model) as trace:
        outputs = named_outputs(run(model, inputs))
    tensors = {}
    for name, tensor in {**outputs, **trace}.items():
        name = rename(name) if rename else name
        if name is not None and any(fnmatchcase(name, pattern) for pattern in only):
            tensors[name] = tensor
    clash = given.keys() & tensors.keys()
    if clash:
        raise ValueError(f"{sorted(clash)} are names of inputs and of what was recorded: rename one of the two")
    save_file({**given, **tensors}, str(path), metadata=about(model))
    return {**given, **tensors}


def about(model):
    """What the dump says of itself; `config` is the model's config.json."""
    facts = {"written_by": "dump_activations.py", "model": type(model).__name__, "torch": torch.__version__}
    if "transformers" in sys.modules:
        facts["transformers"] = sys.modules["transformers"].__version__
    config = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        facts["config"] = config.to_json_string(use_diff=False)
    return facts


def load_model(folder, dtype, device, class_name):
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    name = class_name or next(iter(config.architectures or ()), "DebertaV2Model")
    if not hasattr(transformers, name):
        sys.exit(f"dump_activations: transformers has no class {name}; name one with --class")
    key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", **{key: dtype})
    return model.eval().to(device)


def read_inputs(path, dtype):
    """The inputs of a file, which may be a dump. Floating inputs and labels take the model's dtype, masks keep theirs."""
    from safetensors.torch import load_file

    inputs = {name: tensor for name, tensor in load_file(path).items() if name in INPUTS}
    if not inputs.keys() & {"input_ids", "inputs_embeds"}:
        sys.exit(f"dump_activations: {path} holds neither input_ids nor inputs_embeds")
    return {k: v.to(dtype) if v.is_floating_point() and k != "attention_mask" else v for k, v in inputs.items()}


def tokenized(texts, folder):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(texts, padding=True, return_tensors="pt"))


def main():
    parser = argparse.ArgumentParser(
        description="Dumps every intermediate of a model that transformers loads, with the inputs.",
        epilog="For a model of your own, import `dump` from this file: see its first lines.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="what from_pretrained takes")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--inputs", metavar="FILE", help="a safetensors file that holds input_ids, attention_mask, …")
    given.add_argument("--text", action="append", metavar="TEXT", help="a text to tokenize; again for a batch")
    parser.add_argument("--out", required=True, metavar="FILE", help="the safetensors file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="what to compute in (default: f32)")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="the model's class (default: what config.json says)")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="keep names like this, such as '*.layer.0.*'; may be repeated")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype]
    inputs = read_inputs(options.inputs, dtype) if options.inputs else tokenized(options.text, options.model)
    model = load_model(options.model, dtype, options.device, options.class_name)
    inputs = {name: tensor.to(options.device) for name, tensor in inputs.items()}
    written = dump(model, inputs, options.out, only=options.only or ("*",))
    print(f"{options.out}: {len(written)} tensors, {sum(t.nbytes for t in written.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
