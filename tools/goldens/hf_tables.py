"""Tables of single functions of Hugging Face transformers: relative positions in buckets, and activations."""

import torch
from transformers.activations import ACT2FN
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position, make_log_bucket_position

from common import PRECISIONS, generator, save

FARTHEST = 2000
# The released sizes; small ones; odd bucket counts; and pairs where f32 and f64 logarithms fall into different buckets.
BUCKETS = (
    (256, 512), (8, 64), (16, 64), (6, 37), (7, 23), (5, 31), (2, 5), (3, 7), (4, 4096), (31, 100), (33, 257), (64, 128),
    (100, 1000), (128, 1024), (255, 511), (320, 640), (512, 2048),
    (32, 129), (128, 513), (200, 512), (256, 512 + 1), (32, 128), (128, 512),
)  # fmt: skip


def bucket_tables():
    """`log_bucket.{buckets}.{max}` [4001]: the bucket of the distances −2000 … 2000.
    `relative_position.{buckets}.{max}.{Q}x{K}` [1, Q, K]: build_relative_position, also where Q ≠ K; −1 is no buckets."""
    distances = torch.arange(-FARTHEST, FARTHEST + 1)
    tables = {f"log_bucket.{b}.{m}": make_log_bucket_position(distances, b, m).to(torch.int64) for b, m in BUCKETS}
    for b, m in ((8, 64), (-1, -1), (-1, 9), (6, 37)):
        for q, k in ((1, 1), (19, 19), (5, 13), (13, 5)):
            tables[f"relative_position.{b}.{m}.{q}x{k}"] = build_relative_position(torch.zeros(q, 1), torch.zeros(k, 1), b, m)
    for name, t in tables.items():
        # The bucket of a distance must not depend on where in a tensor it was computed (vector or scalar logarithm).
        if name.startswith("log_bucket"):
            b, m = map(int, name.split(".")[1:])
            alone = torch.stack([make_log_bucket_position(d, b, m).to(torch.int64) for d in distances])
            assert torch.equal(t, alone), name
    return {k: v.to(torch.int16) for k, v in tables.items()}


def grid():
    """f32 values: a fine grid around zero, where functions bend, and the extremes."""
    fine = torch.linspace(-12, 12, 961, dtype=torch.float64).float()
    wide = (torch.randn(200, generator=generator(7)) * 40).float()
    near = torch.tensor([10.0 ** -e * s for e in range(1, 46) for s in (1, -1)], dtype=torch.float64).float()
    large = torch.tensor([10.0**e * s for e in range(1, 39) for s in (1, -1)], dtype=torch.float64).float()
    edges = [0.0, -0.0, 1.0, -1.0, 6.0, -3.0, 3.0, 20.0, 20.5, 88.0, 89.0, -88.0, -104.0, 3.4028234663852886e38, -3.4028234663852886e38]
    special = torch.tensor(edges + [1.1754943508222875e-38, 1e-45, -1e-45, float("inf"), float("-inf"), float("nan")])
    return torch.cat([fine, wide, near, large, special.float()])


def activations(dtype):
    """`x`, and for each name of ACT2FN that has no parameters its value there."""
    x = grid().to(dtype)
    names = [n for n in ACT2FN if n not in ("prelu", "xielu")]
    with torch.no_grad():
        return {"x": x, **{n: ACT2FN[n](x.clone()) for n in names}}


def make(root):
    save(root / "buckets.safetensors", bucket_tables())
    for precision, dtype in PRECISIONS.items():
        save(root / f"activations.{precision}.safetensors", activations(dtype))
