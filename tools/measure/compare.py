"""The measure: how far an output lies from the reference, and how far it may."""

import math
from dataclasses import dataclass

import torch

F64_LIMIT = 1e-10
F32_FACTOR = 3


@dataclass
class Verdict:
    tensor: str
    precision: str
    error: float  # max |ours − reference in f64|; inf where shape, NaN or infinity differ, or the tensor is missing
    limit: float
    reason: str = ""
    scale: float = 0.0  # max |reference|
    in_f32: bool = False  # whether the reference computed it in f32
    noise: float = 0.0  # for a loss in f32: the limit of the logits under it

    @property
    def ok(self):
        return self.error <= self.limit

    @property
    def only_rounding(self):
        """Beyond the limit, but within four units in the last place of the largest value in the precision that the
        reference took (some losses are f32 in an f64 model too), or, a loss, within the limit of its logits."""
        unit = 2.0**-23 if self.in_f32 else 2.0**-52
        return not self.ok and self.error <= max(4 * self.scale * unit, self.noise)


def distance(a, b):
    """max |a − b| where both are finite; a text where they differ in kind."""
    if a.shape != b.shape:
        return math.inf, f"shape {list(a.shape)} for {list(b.shape)}"
    a, b = a.double(), b.double()
    if not torch.equal(a.isnan(), b.isnan()):
        return math.inf, f"{int(a.isnan().sum())} NaN for {int(b.isnan().sum())}"
    infinite = a.isinf() | b.isinf()
    if not torch.equal(a[infinite], b[infinite]):
        return math.inf, "infinities differ"
    d = (a - b).abs()[~(a.isnan() | infinite)]
    return (d.max().item() if d.numel() else 0.0), ""


def judge(ours, reference, precision, complete):
    """A verdict for each output. `reference` is {"f64": …, "f32": …}; if `complete`, there must be no others."""
    verdicts, noise = [], 0.0
    if precision == "f32":
        logits = [n for n in reference["f64"] if n.endswith("logits")]
        noise = F32_FACTOR * max((distance(reference["f32"][n], reference["f64"][n])[0] for n in logits), default=0.0)
    for name, exact in reference["f64"].items():
        if precision == "f64":
            limit = F64_LIMIT
        else:
            limit = F32_FACTOR * distance(reference["f32"][name], exact)[0]
        if name not in ours:
            verdicts.append(Verdict(name, precision, math.inf, limit, "missing"))
            continue
        error, reason = distance(ours[name], exact)
        finite = exact.double()[exact.double().isfinite()].abs()
        scale = finite.max().item() if finite.numel() else 0.0
        in_f32 = reference[precision][name].dtype == torch.float32
        verdicts.append(Verdict(name, precision, error, limit, reason, scale, in_f32, noise if name == "loss" else 0.0))
    surplus = [n for n in ours if n not in reference["f64"]] if complete else []
    return verdicts + [Verdict(n, precision, math.inf, 0.0, "not an output of the reference") for n in surplus]
