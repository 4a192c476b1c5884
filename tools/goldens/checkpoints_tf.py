"""Adds TensorFlow's kinds of file to fixtures/checkpoints (run checkpoints.py first).

    python tools/goldens/checkpoints_tf.py      (environment: requirements-tf.txt)

One masked language model of transformers 4.57's TensorFlow classes, saved in every way, and a bundle with split variables.
The manifest says what the PyTorch parameters must be: TensorFlow's values under the names and axes of the PyTorch class, by the
rules of transformers' own modeling_tf_pytorch_utils (a kernel transposed, a convolution's as (2, 1, 0)).
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import h5py
import numpy as np
import tensorflow as tf
import transformers

FOLDER = Path(__file__).resolve().parents[2] / "fixtures/checkpoints"
SEED = 20265
CONFIG = dict(
    vocab_size=53, hidden_size=22, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37,
    max_position_embeddings=41, type_vocab_size=3, relative_attention=True, position_buckets=7, max_relative_positions=-1,
    pos_att_type=["p2c", "c2p"], share_att_key=False, norm_rel_ebd="layer_norm", position_biased_input=True,
    conv_kernel_size=3, conv_act="gelu",
)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def describe(array, dtype):
    array = np.ascontiguousarray(array)
    return {"dtype": dtype, "shape": list(array.shape), "sha256": sha256(array.tobytes())}


def pytorch_name(variable):
    name = variable.removesuffix(":0").split("/", 1)[1].replace("layer_._", "layer.").replace("/", ".")
    for ours, theirs in ((".pos_proj.", ".pos_key_proj."), (".pos_q_proj.", ".pos_query_proj.")):
        name = name.replace(ours, theirs)
    for ours, theirs in ((".kernel", ".weight"), (".gamma", ".weight"), (".beta", ".bias"), (".embeddings", ".weight")):
        if name.endswith(ours):
            name = name.removesuffix(ours) + theirs
    return name


def models():
    config = transformers.DebertaV2Config(**CONFIG)
    model = transformers.TFDebertaV2ForMaskedLM(config)
    model(tf.constant([[1, 2, 3]]))
    rng = np.random.default_rng(SEED)
    model.set_weights([rng.normal(size=w.shape, scale=0.3).astype("f4") for w in model.get_weights()])
    expected = {}
    for w in model.weights:
        value = w.numpy()
        if "kernel" in w.name:
            value = value.transpose((2, 1, 0) if value.ndim == 3 else (1, 0))
        expected[pytorch_name(w.name)] = describe(value, "F32")

    def folder(name):
        path = FOLDER / "models" / name
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        (path / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["TFDebertaV2ForMaskedLM"]}, indent=1))
        return str(path)

    model.save_weights(folder("tf-h5") + "/tf_model.h5")
    model.save_weights(folder("tf-keras") + "/ckpt")
    tf.train.Checkpoint(model=model, step=tf.Variable(3, dtype=tf.int64)).save(folder("tf-object") + "/ck")
    path = folder("tf-1")
    names = {w.name.removesuffix(":0"): w for w in model.weights}
    tf.compat.v1.train.Saver(names).save(None, path + "/model.ckpt", write_meta_graph=False)
    # A SavedModel is its variables, kept as tf.train.Checkpoint keeps them, beside a graph that nothing here needs.
    path = folder("tf-saved")
    os.makedirs(path + "/variables")
    holder = tf.Module()
    holder.variables_list = list(model.weights)
    tf.saved_model.save(holder, path)
    shutil.rmtree(path + "/assets", ignore_errors=True)
    covers = {
        "tf-h5": "Keras HDF5, which holds the embeddings twice", "tf-keras": "Keras save_weights: a bundle with an object graph",
        "tf-object": "tf.train.Checkpoint with a step", "tf-1": "TF1's Saver: plain names", "tf-saved": "a SavedModel's variables",
    }
    return [{"model": f"models/{name}", "covers": why, "parameters": expected} for name, why in covers.items()]


def split():
    """Variables split over several machines, two data files, half precision."""
    v1 = tf.compat.v1
    shutil.rmtree(FOLDER / "tf", ignore_errors=True)
    os.makedirs(FOLDER / "tf")
    tensors = {}
    with tf.Graph().as_default(), v1.Session() as session:
        split = []
        rng = np.random.default_rng(SEED + 1)
        for name, shape, axis, parts in [("rows", (300, 3), 0, 3), ("columns", (3, 70), 1, 4), ("middle", (2, 9, 3), 1, 3)]:
            initial = v1.random_normal_initializer(seed=SEED)
            variable = v1.get_variable(name, shape, tf.float32, initializer=initial, partitioner=v1.fixed_size_partitioner(parts, axis))
            split.append((name, variable, axis))
        v1.set_random_seed(SEED)
        whole = v1.get_variable("half", (3, 4), tf.float16, initializer=v1.constant_initializer(rng.normal(size=(3, 4))))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(FOLDER / "tf/split"), write_meta_graph=False)
        for name, variable, axis in split:
            tensors[name] = describe(np.concatenate([session.run(part) for part in variable], axis), "F32")
        tensors["half"] = describe(session.run(whole), "F16")
    os.remove(FOLDER / "tf/checkpoint")
    return [{"file": "tf/split.index", "covers": "variables in slices, along each axis", "tensors": tensors}]


def hdf5():
    """What Keras does not write and others do: chunks, compression, big-endian numbers, half precision, a user block."""
    rng = np.random.default_rng(SEED + 2)
    tensors = {}
    with h5py.File(FOLDER / "tf/numbers.h5", "w", userblock_size=512) as file:
        for name, dtype, code, options in [
            ("plain/f4", "<f4", "F32", {}), ("plain/big", ">f4", "F32", {}), ("plain/half", "<f2", "F16", {}),
            ("packed/f8", "<f8", "F64", dict(chunks=(3, 2), compression="gzip", shuffle=True, fletcher32=True)),
            ("packed/i4", "<i4", "I32", dict(chunks=(2, 5))), ("flags", "?", "BOOL", {}),
        ]:
            value = (rng.normal(size=(7, 5)) * 9).astype(dtype)
            file.create_dataset(name, data=value, **options)
            tensors[name] = describe(value.astype(value.dtype.newbyteorder("<")), code)
    return [{"file": "tf/numbers.h5", "covers": "HDF5 with chunks, filters, both byte orders, a user block", "tensors": tensors}]


def main():
    cases = models() + split() + hdf5()
    path = FOLDER / "manifest.json"
    manifest = json.loads(path.read_text())
    names = {c.get("model") or c.get("file") for c in cases}
    manifest["cases"] = [c for c in manifest["cases"] if (c.get("model") or c.get("file")) not in names] + cases
    manifest["versions"] |= {"tensorflow": tf.__version__, "h5py": h5py.__version__, "transformers (TensorFlow)": transformers.__version__}
    files = sorted(p for p in FOLDER.rglob("*") if p.is_file() and p != path)
    manifest["files"] = {p.relative_to(FOLDER).as_posix(): sha256(p.read_bytes()) for p in files}
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    total = sum(p.stat().st_size for p in files)
    print(f"{FOLDER.name}: {len(manifest['cases'])} cases, {len(files)} files, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
