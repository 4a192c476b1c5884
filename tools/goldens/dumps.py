"""Dumps in the forms that people have them in: NumPy's arrays and archives, and the JSON of transformers' debugger.

    python tools/goldens/dumps.py

writes fixtures/dumps with a manifest. The sums in it are of the elements as this program sees them: row-major, little-endian.
The models are those of fixtures/hf. Needs transformers, torch, numpy and ml_dtypes.
"""

import hashlib
import io
import shutil
import zipfile

import ml_dtypes
import numpy as np
import torch
import transformers
from common import FIXTURES, generator, save, write_manifest
from numpy.lib import format as npy

FOLDER = FIXTURES / "dumps"
SEED = 20240610
DTYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8", "u8": "U64", "u4": "U32",
          "u2": "U16", "u1": "U8", "b1": "BOOL", "V2": "BF16", "c8": "C64"}


def described(array):
    """A tensor as the manifest gives it."""
    kind = "V2" if array.dtype == ml_dtypes.bfloat16 else array.dtype.str[1:]
    little = array if kind == "V2" else array.astype(array.dtype.newbyteorder("<"))
    return {"dtype": DTYPES[kind], "shape": list(array.shape), "sha256": hashlib.sha256(little.tobytes("C")).hexdigest()}


def arrays():
    """One array of every type, in each byte order and both orders of axes; none, one and four axes; empty ones."""
    rng = np.random.default_rng(SEED)
    values = rng.standard_normal((2, 3, 5)) * 9
    found = {}
    for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"):
        base = np.abs(values) if kind.startswith("u") else values
        base = base > 0 if kind == "b1" else base
        found[f"little.{kind}"] = base.astype("<" + kind if kind[1] != "1" else kind)
        if kind[1] != "1":
            found[f"big.{kind}"] = base.astype(">" + kind)
        found[f"fortran.{kind}"] = np.asfortranarray(found[f"little.{kind}"])
    found["big.fortran"] = np.asfortranarray(values.astype(">f4"))
    found["scalar"] = np.array(1.5, dtype="<f4")
    found["one"] = values.reshape(-1)[:7].astype("<f4")
    found["four"] = values.reshape(1, 2, 3, 5).astype("<f4")
    found["empty"] = np.zeros((3, 0, 2), dtype="<f4")
    found["bfloat16"] = values.astype(ml_dtypes.bfloat16)
    found["complex"] = (values + 1j * values).astype("<c8")
    return found


def write_version(path, array, version):
    with open(path, "wb") as file:
        npy.write_array(file, array, version=version)


def numpy_files(cases):
    folder = FOLDER / "numpy"
    folder.mkdir()
    kinds = arrays()
    tensors = {name: described(array) for name, array in kinds.items()}
    others = {"text": np.array(["a", "bc"]), "objects": np.array([{}, 1], dtype=object), "records": np.zeros(2, dtype="<f4,<i2"),
              "eight": np.zeros(3, dtype=ml_dtypes.float8_e4m3fn), "quadruple": np.zeros(2, dtype=np.longdouble)}
    for file, write in (("stored.npz", np.savez), ("deflated.npz", np.savez_compressed)):
        write(folder / file, **kinds, **others)
        entry = {"file": f"numpy/{file}", "covers": f"every type, {file.split('.')[0]}", "tensors": tensors}
        cases.append({**entry, "others": sorted(others)})
    nested = folder / "nested"
    shown = {}
    for name in ("little.f4", "fortran.f8", "big.f2", "scalar", "bfloat16"):
        parts = name.split(".")
        path = nested.joinpath("deberta", *parts[:-1])
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / f"{parts[-1]}.npy", kinds[name])
        shown["deberta." + name] = tensors[name]
    np.save(nested / "deberta.flat.npy", kinds["one"])
    shown["deberta.flat"] = tensors["one"]
    cases.append({"file": "numpy/nested", "covers": "a folder of arrays, nested and flat", "tensors": shown})
    for version in ((1, 0), (2, 0), (3, 0)):
        file = f"numpy/version-{version[0]}.npy"
        write_version(FOLDER / file, kinds["little.f4"], version)
        name = file.split("/")[1].removesuffix(".npy")
        cases.append({"file": file, "covers": f"a header of version {version[0]}", "tensors": {name: tensors["little.f4"]}})
    # An entry that is no array is named and left out.
    with zipfile.ZipFile(folder / "with-note.npz", "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, kinds["one"])
        archive.writestr("one.npy", buffer.getvalue())
        archive.writestr("note.txt", "not an array")
    cases.append({"file": "numpy/with-note.npz", "covers": "an entry that is no array", "tensors": {"one": tensors["one"]},
                  "others": ["note.txt"]})


def model_of(name, cls):
    path = FIXTURES / "hf" / name
    return cls.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def inputs(vocabulary):
    ids = torch.randint(1, vocabulary, (2, 7), generator=generator(SEED))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def debugged(folder, name, cls, use_repr):
    model = model_of(name, cls)
    given = inputs(model.config.vocab_size)
    path = FOLDER / folder
    with transformers.model_addition_debugger_context(model, debug_path=str(path), do_prune_layers=False, use_repr=use_repr):
        model.forward(**given, output_hidden_states=True)
    with torch.no_grad():
        out = model(**given, output_hidden_states=True)
    states = {f"hidden_states.{i}": state for i, state in enumerate(out.hidden_states)}
    save(path / "expected.safetensors", {**given, **states, **({"logits": out.logits} if "logits" in out else {})})
    for file in path.iterdir():
        file.chmod(0o644)


def main():
    torch.manual_seed(SEED)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    cases = []
    numpy_files(cases)
    # With a convolution and shared position keys: key_proj and query_proj are called twice in each layer.
    debugged("debugger-files", "base-v2-xlarge", transformers.DebertaV2Model, False)
    debugged("debugger-printed", "masked-lm-new", transformers.DebertaV2ForMaskedLM, True)
    header = {"command": "python tools/goldens/dumps.py", "seed": SEED, "numpy": np.__version__, "torch": torch.__version__,
              "transformers": transformers.__version__, "ml_dtypes": ml_dtypes.__version__}
    write_manifest(FOLDER, header, cases)


if __name__ == "__main__":
    main()
