"""Makes fixtures/checkpoints: small files of every kind that torch.save writes, and files that must be refused.

    python tools/goldens/checkpoints.py
    python tools/goldens/checkpoints_tf.py      (in an environment of its own; see requirements-tf.txt)

The manifest says for each file what PyTorch itself reads from it (name, type, shape, SHA-256 of the bytes, little-endian),
or a part of the sentence with which it must be refused. Files that torch.save cannot write (a big-endian archive, a
compressed one, the tar form of before 0.4) are rewritten from one that it did.
"""

import argparse
import collections
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import torch
import transformers

from common import FIXTURES, fill, generator, sha256, write_manifest

FOLDER = FIXTURES / "checkpoints"
SEED = 20264
# The names of safetensors for PyTorch's types.
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}
CONFIG = dict(
    vocab_size=53, hidden_size=22, num_hidden_layers=2, num_attention_heads=2, intermediate_size=37,
    max_position_embeddings=41, type_vocab_size=3, relative_attention=True, position_buckets=7, max_relative_positions=-1,
    pos_att_type=["p2c", "c2p"], share_att_key=False, norm_rel_ebd="layer_norm", position_biased_input=True,
    conv_kernel_size=3, conv_act="gelu", hidden_act="gelu", pooler_hidden_size=22,
)


def random_tensor(dtype, *shape):
    size = torch.empty(0, dtype=dtype).element_size()
    count = torch.Size(shape).numel() * size
    g = generator(SEED + len(shape) + size)
    return torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=g).view(dtype).reshape(shape)


def describe(tensor):
    data = tensor.detach().contiguous()
    data = b"" if data.numel() == 0 else data.flatten().view(torch.uint8).numpy().tobytes()
    return {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "sha256": hashlib.sha256(data).hexdigest()}


def flatten(value, path=""):
    """Names joined by dots, as the reader gives them."""
    if isinstance(value, torch.Tensor):
        yield path or "tensor", value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from flatten(inner, f"{path}.{i}" if path else str(i))


def objects():
    """What is saved, by name, with what it covers."""
    base = torch.randn(4, 6, 7, generator=generator(SEED))
    views = dict(
        whole=base, permuted=base.permute(2, 0, 1), sliced=base[1:, 2], strided=base[..., ::2], selected=base.select(1, 3),
        scalar=torch.tensor(3.5), empty=torch.empty(0, 4), expanded=base[0, :1].expand(5, 7), tail=base.flatten()[11:29],
    )
    weight = torch.nn.Parameter(torch.randn(3, 2, generator=generator(SEED + 1)))
    nested = {
        "state_dict": {"module.x.weight": weight, "module.x.bias": torch.nn.Buffer(base[0, 0])},
        "optimizer": {"state": {0: {"exp_avg": base[0], "step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "epoch": 3, "name": "später", "list": [base[1], base[2]], "nothing": None, "pair": (1, 2.5), "big": 2**70, "minus": -(2**40),
    }
    return {
        "dtypes": (collections.OrderedDict((str(d).split(".")[1], random_tensor(d, 3, 5)) for d in DTYPES), "every type of safetensors"),
        "views": (views, "views with offsets and strides, shared storages, a scalar, an empty tensor, an expanded one"),
        "nested": (nested, "dictionaries in dictionaries, parameters and buffers, an optimizer, text, large integers"),
        "tied": ({"a": base, "b": base, "c": base.view(-1)}, "one array under several names"),
        "tensor": (base[0], "a tensor by itself"),
        "module": (fill(torch.nn.Linear(3, 4), SEED).state_dict(), "a state dict with its metadata"),
    }


def case(file, covers, value):
    return {"file": file, "covers": covers, "tensors": {name: describe(t) for name, t in flatten(value)}}


def saved(cases):
    for name, (value, covers) in objects().items():
        for protocol in (2, 3, 4, 5):
            file = f"torch/{name}.zip.{protocol}.bin"
            torch.save(value, FOLDER / file, pickle_protocol=protocol)
            cases.append(case(file, f"zip, protocol {protocol}: {covers}", value))
        for protocol in (2, 4):
            file = f"torch/{name}.legacy.{protocol}.bin"
            torch.save(value, FOLDER / file, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
            cases.append(case(file, f"legacy, protocol {protocol}: {covers}", value))


def rewritten(cases):
    """Archives that torch.save does not write and torch.load reads."""
    value = {"x": torch.arange(12, dtype=torch.float32).reshape(3, 4), "n": torch.arange(5), "b": torch.tensor([True, False])}
    buffer = io.BytesIO()
    torch.save(value, buffer)
    sizes = {"data/0": 4, "data/1": 8, "data/2": 1}
    for file, covers, method, big in [
        ("torch/big-endian.bin", "numbers stored most significant byte first", zipfile.ZIP_STORED, True),
        ("torch/deflated.bin", "an archive packed again, with compression", zipfile.ZIP_DEFLATED, False),
    ]:
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(FOLDER / file, "w", method) as target:
            for entry in source.infolist():
                data = source.read(entry)
                inner = entry.filename.split("/", 1)[1]
                if big and inner in sizes:
                    data = np.frombuffer(data, f"<u{sizes[inner]}").astype(f">u{sizes[inner]}").tobytes()
                if big and inner == "byteorder":
                    data = b"big"
                target.writestr(zipfile.ZipInfo(entry.filename), data, compress_type=method)
        cases.append(case(file, covers, value))


def refused(cases):
    class Run:
        def __reduce__(self):
            return os.system, ("echo this must never run",)

    def add(file, covers, sentence):
        cases.append({"file": file, "covers": covers, "refused": sentence})

    for form, new in (("zip", True), ("legacy", False)):
        file = f"refused/system.{form}.bin"
        torch.save({"x": torch.zeros(2), "y": Run()}, FOLDER / file, _use_new_zipfile_serialization=new)
        add(file, f"a {form} file that would run a shell command", "posix.system, which would run a shell command")
        file = f"refused/module.{form}.bin"
        torch.save(torch.nn.Linear(2, 2), FOLDER / file, _use_new_zipfile_serialization=new)
        add(file, f"a whole module in a {form} file", "save model.state_dict() instead")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(FOLDER / "refused/script.pt"))
    add("refused/script.pt", "TorchScript", "TorchScript")
    with tarfile.open(FOLDER / "refused/before-0.4.tar.pt", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = b"\x80\x02}q\x00."
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    add("refused/before-0.4.tar.pt", "the tar form of PyTorch before 0.4", "before 0.4")


def foreign(cases):
    """Tensors that safetensors has no place for are named and left out; the others are read."""
    value = {"kept": torch.arange(3.0), "complex": torch.zeros(2, dtype=torch.complex128), "sparse": torch.eye(2).to_sparse(),
             "conjugate": torch.ones(2, dtype=torch.complex64).conj()}
    torch.save(value, FOLDER / "torch/foreign.bin")
    entry = case("torch/foreign.bin", "tensors of kinds that safetensors lacks", {"kept": value["kept"]})
    cases.append({**entry, "others": ["complex", "conjugate", "sparse"]})


def models(cases):
    """A masked language model under the names that programs have given its parameters. All must become the same."""
    config = transformers.DebertaV2Config(**CONFIG)
    model = fill(transformers.DebertaV2ForMaskedLM(config).eval(), SEED + 2)
    state = model.state_dict()
    # Microsoft's first form has no bias for keys and position keys.
    for name, tensor in state.items():
        if name.endswith(("self.key_proj.bias", "self.pos_key_proj.bias")):
            tensor.zero_()
    ties = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    expected = {name: describe(t) for name, t in state.items() if name not in ties}

    def add(folder, covers, value, **save):
        os.makedirs(FOLDER / "models" / folder, exist_ok=True)
        torch.save(value, FOLDER / "models" / folder / "pytorch_model.bin", **save)
        (FOLDER / "models" / folder / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["DebertaV2ForMaskedLM"]}, indent=1))
        cases.append({"model": f"models/{folder}", "covers": covers, "parameters": expected})

    add("huggingface", "Hugging Face's own names, tied weights in it", state)
    old = {}
    heads = CONFIG["num_attention_heads"]
    for name, tensor in state.items():
        if name in ties or any(p in name for p in ("self.key_proj", "self.value_proj")):
            continue
        base = name.rsplit(".", 2)[0]
        if "self.query_proj.weight" in name:
            # transformers/models/deberta/modeling_deberta.py takes in_proj.weight.chunk(heads * 3) as q, k, v head by head.
            parts = [state[f"{base}.{p}.weight"].chunk(heads) for p in ("query_proj", "key_proj", "value_proj")]
            old[f"{base}.in_proj.weight"] = torch.cat([part[h] for h in range(heads) for part in parts])
            old[f"{base}.q_bias"] = state[f"{base}.query_proj.bias"]
            old[f"{base}.v_bias"] = state[f"{base}.value_proj.bias"]
        elif "self.query_proj.bias" in name or "self.pos_key_proj.bias" in name:
            continue
        else:
            name = name.replace("self.pos_key_proj.", "self.pos_proj.").replace("self.pos_query_proj.", "self.pos_q_proj.")
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            old[name.replace("deberta.", "bert.")] = tensor
    old = {name.replace("deberta.", "bert."): tensor for name, tensor in old.items()}
    old["bert.embeddings.position_ids"] = torch.arange(41)[None]
    add("microsoft-first", "Microsoft's first names: in_proj, q_bias, pos_proj; gamma and beta; bert.", old, _use_new_zipfile_serialization=False)
    wrapped = {"model": {f"module.{n}": t for n, t in state.items()}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "step": 5}
    add("wrapped", "a training program's checkpoint: model, module., an optimizer", wrapped)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    for folder in ("torch", "refused", "models/huggingface", "models/microsoft-first", "models/wrapped"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
        os.makedirs(FOLDER / folder)
    cases = []
    saved(cases)
    rewritten(cases)
    foreign(cases)
    refused(cases)
    models(cases)
    header = {
        "command": "python tools/goldens/checkpoints.py, then python tools/goldens/checkpoints_tf.py",
        "reference": "what PyTorch holds when it saves; what TensorFlow and h5py read",
        "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        "seed": SEED,
    }
    write_manifest(FOLDER, header, cases)


if __name__ == "__main__":
    main()
