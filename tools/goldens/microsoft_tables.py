"""Goldens of Microsoft's code that are not a model directory of one head: shared embeddings, the attention alone, and buckets."""

import json

import torch

import microsoft_code as code
from common import PRECISIONS, fill, generator, max_difference, save
from hf_tables import BUCKETS, FARTHEST
from inputs import Inputs
from microsoft_cases import config, shape_of, some_labels


def entry(name, model, head, covers, files, inputs, outputs):
    return {
        "name": name, "model": model, "head": head, "profile": "microsoft", "covers": covers, "golden": files, "traced": [],
        "inputs": sorted(inputs),
        "f32_to_f64": {k: max_difference(v, outputs["f64"][k]) for k, v in outputs["f32"].items()},
    }  # fmt: skip


def embedding_sharing(library, root, seed):
    """A generator and a discriminator in one file; the discriminator's embeddings are the generator's plus a delta `_weight`."""
    part = config(2, 11, 3, 23, 37)
    settings = {"generator": {**part, "num_hidden_layers": 2}, "discriminator": part, "embedding_sharing": "gdes"}
    # from_dict makes plain nested settings of the two parts; the models want Microsoft's ModelConfig, defaults included.
    nested = library.inner.ModelConfig.from_dict(settings)
    for key in ("generator", "discriminator"):
        setattr(nested, key, library.inner.ModelConfig.from_dict(settings[key]))
    folder = root / "rtd-gdes"
    folder.mkdir()
    model = fill(library.pair()(nested), seed)
    (folder / "model_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    state = model.state_dict()
    assert any(k.endswith("word_embeddings._weight") for k in state)
    torch.save(state, folder / "pytorch_model.bin")
    inputs = some_labels(Inputs(shape_of(part), seed, 2, 9).ids().mask("right"), [0, 2, 3, 8, 10, 12]).tensors
    entries = []
    for head, run in (("replaced-token-detection", "discriminator_fw"), ("enhanced-masked-lm", "generator_fw")):
        name, outputs, files = run.split("_")[0], {}, {}
        for precision, dtype in PRECISIONS.items():
            fresh = library.pair()(nested)
            fresh.load_state_dict(state)
            with torch.no_grad(), code.float_keeps_double():
                arguments = {"input_ids": inputs["input_ids"], "input_mask": inputs["attention_mask"], "labels": inputs["labels"]}
                out = getattr(fresh.to(dtype).eval(), run)(**arguments)
            outputs[precision] = {"logits": out["logits"], "loss": out["loss"]}
            save(folder / f"{name}.{precision}.safetensors", {**inputs, **outputs[precision]})
            files[precision] = f"rtd-gdes/{name}.{precision}.safetensors"
        covers = f"the {name} of a file that holds both; gradient-disentangled embedding sharing"
        entries.append(entry(f"rtd-gdes/{name}", "rtd-gdes", head, covers, files, inputs, outputs))
    return entries


def attention(library, root, seed):
    """DisentangledSelfAttention alone: queries of their own, more or fewer than the keys. The weights stand in the golden file."""
    folder = root / "attention"
    folder.mkdir()
    entries = []
    options = {
        "shared": dict(),
        "separate": dict(share_att_key=False, position_buckets=-1, max_relative_positions=5),
        "clamped": dict(max_relative_positions=7),
    }
    (folder / "model_config.json").write_text(json.dumps({k: config(3, 7, 1, 23, 29, **o) for k, o in options.items()}, indent=1) + "\n")
    for kind, changed in options.items():
        settings = config(3, 7, 1, 23, 29, **changed)
        for number, (q, k) in enumerate(((5, 13), (13, 5), (11, 11), (1, 7))):
            entries.append(attention_run(library, settings, f"{kind}-{q}x{k}", q, k, folder, seed + 10 * number))
    return entries


def attention_run(library, settings, name, q, k, folder, seed):
    c = library.inner.ModelConfig.from_dict(settings)
    module = fill(library.inner.DisentangledSelfAttention(c), seed).eval()
    span = c.position_buckets if c.position_buckets > 0 else c.max_relative_positions
    g = generator(seed + 1)
    normal = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    mask = (torch.rand((2, 1, q, k), generator=g) < 0.7).long()
    mask[0, 0, -1] = 0  # a query that may attend to nothing
    floats = {
        "hidden_states": normal(2, k, c.hidden_size), "query_states": normal(2, q, c.hidden_size), "rel_embeddings": normal(2 * span, c.hidden_size),
    }  # fmt: skip
    outputs, files = {}, {}
    terms = ["c2p", "p2c"]
    for precision, dtype in PRECISIONS.items():
        given = {n: t.to(dtype) for n, t in floats.items()}
        with torch.no_grad(), code.float_keeps_double(), code.NewestSteps(c.num_attention_heads, terms) as steps:
            out = module.to(dtype)(given["hidden_states"], mask, query_states=given["query_states"], rel_embeddings=given["rel_embeddings"])
        steps.finish(out)
        outputs[precision] = {"context": out["hidden_states"], **steps.steps}
        weights = module.state_dict() if precision == "f64" else {n: t.float() for n, t in module.state_dict().items()}
        path = folder / f"{name}.{precision}.safetensors"
        save(path, {**given, "attention_mask": mask, **weights, **outputs[precision]})
        files[precision] = f"attention/{path.name}"
    covers = f"{q} queries over {k} keys; hidden_states are the keys, rel_embeddings already normed; weights are in the golden file"
    return entry(f"attention/{name}", "attention", "attention", covers, files, [*floats, "attention_mask"], outputs)


def buckets(libraries, root):
    """`{profile}.log_bucket.{buckets}.{max}` for the distances −2000 … 2000, as in fixtures/hf."""
    distances = torch.arange(-FARTHEST, FARTHEST + 1)
    newest = libraries["microsoft"].inner.make_log_bucket_position
    release = libraries["microsoft-2021"].inner.make_log_bucket_position
    tables = {}
    for b, m in BUCKETS:
        tables[f"microsoft.log_bucket.{b}.{m}"] = newest(distances[None, :], b, m)[0].to(torch.int16)
        tables[f"microsoft-2021.log_bucket.{b}.{m}"] = torch.from_numpy(release(distances.numpy(), b, m)).to(torch.int16)
    save(root / "buckets.safetensors", tables)
