"""What the golden makers share: weights worth testing with, the files, and the manifest."""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "fixtures"
PRECISIONS = {"f64": torch.float64, "f32": torch.float32}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def fill(model, seed, std=0.35):
    """Random weights, large enough that a wrong term moves the outputs by far more than rounding. Biases and layer norms
    are not trivial, and the row of the padding id is a row like the others."""
    g = generator(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            is_norm_weight = name.endswith("LayerNorm.weight")
            p.copy_(1 + 0.3 * noise if is_norm_weight else std * noise)
    return model


def to_precision(tensors, dtype):
    """Floating tensors in `dtype`; integers as they are."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def save(path, tensors):
    """Writes a safetensors file without metadata: its order in the file is not the same from run to run."""
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path))
    os.chmod(path, 0o644)


def max_difference(a, b):
    """max |a − b| as the manifest gives it: null where either is NaN in all places or the tensor is empty."""
    difference = (a.double() - b.double()).abs()
    difference = difference[~difference.isnan()]
    return difference.max().item() if difference.numel() else None


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_manifest(folder, header, cases):
    """manifest.json: how the set was made, every file's hash, and the cases in an order a reader can follow."""
    files = {}
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            path = Path(root) / name
            if path != folder / "manifest.json":
                files[path.relative_to(folder).as_posix()] = sha256(path)
    manifest = {**header, "cases": cases, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    total = sum((folder / f).stat().st_size for f in files)
    print(f"{folder.relative_to(folder.parents[1])}: {len(cases)} cases, {len(files)} files, {total / 1e6:.2f} MB")
