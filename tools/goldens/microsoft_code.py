"""Imports Microsoft's DeBERTa from a folder, as far as a forward pass needs it, under a recent Python, numpy and torch.

Nothing in the folder is changed. What the code expects of its surroundings is put in place: names that Python and numpy have dropped,
a logger, and no downloads. `Tensor.float` keeps f64, so that goldens in f64 are f64 where the code lifts half precision to f32.
"""

import ast
import collections
import collections.abc
import importlib
import logging
import os
import sys
import types
from contextlib import contextmanager
from types import SimpleNamespace

import numpy
import torch

from record import DIVISIONS, AttentionSteps, copied

MODULES = ("config", "ops", "da_utils", "disentangled_attention", "bert", "deberta", "pooling", "nnmodule")
MODELS = {
    "enhanced-masked-lm": ("masked_language_model", "MaskedLanguageModel"),
    "replaced-token-detection": ("replaced_token_detection_model", "ReplacedTokenDetectionModel"),
    "sequence-classification": ("sequence_classification", "SequenceClassificationModel"),
    "token-classification": ("ner", "NERModel"),
    "multiple-choice": ("multi_choice", "MultiChoiceModel"),
}


def package(name, folder):
    """A package whose __init__ is not run: it would import tokenizers and training code."""
    module = types.ModuleType(name)
    module.__path__ = [os.path.join(folder, *name.split("."))]
    sys.modules[name] = module
    return module


def load(folder):
    """The classes and functions of the code in `folder` (which holds `DeBERTa/`), as attributes; `models` by head."""
    collections.Sequence = collections.abc.Sequence
    numpy.int = int
    for name in [n for n in sys.modules if n.split(".")[0] == "DeBERTa"]:
        del sys.modules[name]
    for name in ("DeBERTa", "DeBERTa.apps"):
        package(name, folder)
    utils = package("DeBERTa.utils", folder)
    utils.get_logger, utils.xtqdm = lambda *_: logging.getLogger("DeBERTa"), None
    inner = package("DeBERTa.deberta", folder)
    cache = types.ModuleType("DeBERTa.deberta.cache_utils")
    cache.load_model_state = None
    sys.modules[cache.__name__] = cache
    for module_name in MODULES:
        module = importlib.import_module(f"DeBERTa.deberta.{module_name}")
        for public in module.__all__:
            setattr(inner, public, getattr(module, public))
    package("DeBERTa.apps.models", folder)
    models = {}
    for head, (module_name, class_name) in MODELS.items():
        if os.path.exists(os.path.join(folder, "DeBERTa/apps/models", f"{module_name}.py")):
            models[head] = getattr(importlib.import_module(f"DeBERTa.apps.models.{module_name}"), class_name)
    return SimpleNamespace(inner=inner, models=models, pair=lambda: generator_and_discriminator(folder, inner, models))


def generator_and_discriminator(folder, inner, models):
    """The class RTDModel, taken alone out of a file that otherwise imports the whole of the training code."""
    path = os.path.join(folder, "DeBERTa/apps/tasks/rtd_task.py")
    tree = ast.parse(open(path, encoding="utf-8").read())
    tree.body = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "RTDModel"]
    names = {
        "torch": torch, "NNModule": inner.NNModule, "MaskedLanguageModel": models["enhanced-masked-lm"],
        "ReplacedTokenDetectionModel": models["replaced-token-detection"],
    }  # fmt: skip
    exec(compile(tree, path, "exec"), names)
    return names["RTDModel"]


@contextmanager
def float_keeps_double():
    original = torch.Tensor.float
    torch.Tensor.float = lambda t, *a, **k: t if t.dtype == torch.float64 else original(t, *a, **k)
    try:
        yield
    finally:
        torch.Tensor.float = original


class NewestSteps(AttentionSteps):
    """The newest code scales before its products, so that each gather ends a term; then it subtracts each row's maximum."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "bmm" and "c2c" not in self.steps:
            self.steps["c2c"] = self.split_heads(out)
        elif name == "gather" and out.is_floating_point():
            self.steps[self.pending.pop(0)] = self.split_heads(out)
        elif name == "max" and "scores" not in self.steps:
            self.steps["scores"] = self.split_heads(args[0])
        return out

    def finish(self, output):
        self.steps["probs"] = copied(output["attention_probs"])


class ReleaseSteps(AttentionSteps):
    """The code of 2021 divides each term by the scale after its product."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "gather":
            self.gathered = True
        elif name in DIVISIONS and "c2c" not in self.steps:
            self.steps["c2c"] = self.split_heads(out)
        elif name in DIVISIONS and self.gathered:
            self.steps[self.pending.pop(0)], self.gathered = self.split_heads(out), False
        return out

    def finish(self, output):
        self.steps["scores"] = copied(output["attention_logits"])
        self.steps["probs"] = copied(output["attention_probs"])
