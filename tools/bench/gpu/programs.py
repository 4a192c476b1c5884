"""The programs that are timed on one GPU: a whole model and attention alone, each behind `run()`, and what it leaves.

Three run in this process, on PyTorch: Hugging Face's eager attention, FlashDeBERTa and disentangled-flash (Triton). Ours is a
process of its own on the same GPU, asked over a pipe (tests/src/worker.rs); the others wait meanwhile. All times are the host's,
from the call to the end of the last kernel.

In *attention alone* every program is given queries, keys, values and projected position rows that are ready, and returns the
context: the modules' projections are replaced by the results they would have.
"""

import copy
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).resolve().parents[1]))
import workers  # noqa: E402
from workers import Failure  # noqa: E402

OURS = "deberta-ref"
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
# Calls are repeated within one measurement until they take this long, as in the worker.
SHORTEST = 2e-3


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


class Ours:
    """The worker of our own, and the files through which it is given tensors."""

    def __init__(self, command, folder):
        self.folder = Path(folder)
        libraries = [os.environ.get(name) for name in ("DEBERTA_BENCH_LIBRARIES", "LD_LIBRARY_PATH")]
        environment = os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, **request):
        return workers.ask(self.process, request)

    def whole(self, model, precision, replay):
        self.ask(do="load", model=str(model), precision=precision, replay=replay)

    def whole_inputs(self, ids, mask):
        save_file({"input_ids": ids.cpu(), "attention_mask": mask.long().cpu()}, self.folder / "inputs.safetensors")

    def whole_times(self, repeat):
        return self.ask(do="run", file=str(self.folder / "inputs.safetensors"), repeat=repeat)

    def whole_states(self):
        to = self.folder / "states.safetensors"
        self.ask(do="save", file=str(self.folder / "inputs.safetensors"), to=str(to))
        return load_file(to)["last_hidden_state"]

    def attention(self, given, precision, repeat):
        """Seconds and bytes, and the context [N, H·D]."""
        file, to = self.folder / "operands.safetensors", self.folder / "context.safetensors"
        rows = {name: getattr(given, name).float().cpu().contiguous() for name in ("pos_key", "pos_query")}
        for name in ("query", "key", "value"):
            rows[name] = getattr(given, name)[given.mask].float().cpu().contiguous()
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), given.mask.sum(1).cumsum(0).cpu()])
        save_file({**rows, "starts": starts}, file)
        config = given.config
        answer = self.ask(
            do="attention", file=str(file), to=str(to), precision=precision, repeat=repeat, heads=config.num_attention_heads,
            buckets=config.position_buckets, positions=config.max_position_embeddings,
        )  # fmt: skip
        return answer, load_file(to)["context"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def flash_attention(layer, config):
    """FlashDeBERTa's attention with the weights of a layer's own."""
    from flashdeberta import FlashDisentangledSelfAttention

    own = layer.attention.self
    flash = FlashDisentangledSelfAttention(config).to(own.query_proj.weight.device, own.query_proj.weight.dtype).eval()
    flash.load_state_dict(own.state_dict())
    return flash


def hugging_face(model):
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).last_hidden_state


def flash_deberta(model):
    model = copy.deepcopy(model)
    for layer in model.encoder.layer:
        layer.attention.self = flash_attention(layer, model.config)
    return hugging_face(model)


def disentangled_flash(model):
    """Dense batches through the shapes it prepares; ragged ones packed, which is its fastest."""
    from disentangled_flash import optimize_deberta, pack_padded_with_info, unpack_packed

    model = optimize_deberta(copy.deepcopy(model))
    prepared = set()
    state = {}

    def run(ids, mask):
        encoder, length = model.encoder, ids.shape[1]
        if not hasattr(encoder, "forward_packed"):
            raise Failure("it keeps Hugging Face's attention: no Triton, or a shape it does not take")
        if state.get("mask") is not mask:
            state.update(mask=mask, dense=bool(mask.all()))
        if state["dense"]:
            if length not in prepared:
                encoder.prepare_for_inference(length)
                prepared.clear()
                prepared.add(length)
            return model(input_ids=ids, attention_mask=mask).last_hidden_state
        states = model.embeddings(input_ids=ids, mask=mask)
        rows, starts, info = pack_padded_with_info(states, mask)
        rows = encoder.forward_packed(rows, starts, info.max_seqlen, output_hidden_states=False, packed_info=info).last_hidden_state
        return unpack_packed(rows, starts, length, packed_info=info)[0]

    return run


class Given:
    """Operands of attention alone: what the projections of a layer make of random states."""

    def __init__(self, model, mask, seed=7):
        self.config, self.mask, self.layer = model.config, mask, model.encoder.layer[0]
        own = self.layer.attention.self
        weight = own.query_proj.weight
        g = torch.Generator().manual_seed(seed)
        states = torch.randn(*mask.shape, self.config.hidden_size, generator=g)
        self.states = states.to(weight.device, weight.dtype) * mask[..., None]
        self.table = model.encoder.get_rel_embedding()[: 2 * own.pos_ebd_size]
        self.query, self.key, self.value = own.query_proj(self.states), own.key_proj(self.states), own.value_proj(self.states)
        self.pos_key, self.pos_query = own.key_proj(self.table), own.query_proj(self.table)
        self.whole_mask = model.encoder.get_attention_mask(mask)
        self.positions = model.encoder.get_rel_pos(self.states)


class Ready(torch.nn.Module):
    """A projection whose results are there: of the states, and of the table of relative positions."""

    def __init__(self, states, table=None):
        super().__init__()
        self.of_states, self.of_table = states, table

    def forward(self, x):
        return self.of_states if x.shape == self.of_states.shape or self.of_table is None else self.of_table[None]


def ready(attention, given):
    attention = copy.copy(attention)
    attention._modules = dict(attention._modules)
    attention.query_proj = Ready(given.query, given.pos_query)
    attention.key_proj = Ready(given.key, given.pos_key)
    attention.value_proj = Ready(given.value)
    return attention


def eager_attention(given):
    attention = ready(given.layer.attention.self, given)
    return lambda: attention(given.states, given.whole_mask, relative_pos=given.positions, rel_embeddings=given.table)[0]


def flash_deberta_attention(given):
    attention = ready(flash_attention(given.layer, given.config), given)
    mask = given.mask.to(torch.int32)
    return lambda: attention(given.states, mask, rel_embeddings=given.table)[0]


def disentangled_flash_attention(given):
    from disentangled_flash import DisentangledFlashAttention, pack_padded_with_info, unpack_packed

    own = given.layer.attention.self
    attention = DisentangledFlashAttention(given.config).to(own.query_proj.weight.device, own.query_proj.weight.dtype).eval()
    attention.load_state_dict(own.state_dict())
    attention.prepare_for_inference(given.table)
    length = given.mask.shape[1]
    if given.mask.all():
        plan, mask = attention.prepare_shape(length, given.states.device), given.mask.contiguous()
        attention._project_qkv = lambda states: (given.query, given.key, given.value)
        return lambda: attention.forward_prepared(given.states, mask, plan)[0]
    rows, starts, info = pack_padded_with_info(given.states, given.mask)
    packed = tuple(part[given.mask] for part in (given.query, given.key, given.value))
    attention._project_qkv = lambda states: packed
    run = lambda: attention.forward_packed(rows, starts, info.max_seqlen, packed_info=info)[0]  # noqa: E731
    run.unpack = lambda context: unpack_packed(context, starts, length, packed_info=info)[0]
    return run


WHOLE = {"Hugging Face": hugging_face, "FlashDeBERTa": flash_deberta, "disentangled-flash": disentangled_flash}
ATTENTION = {"Hugging Face": eager_attention, "FlashDeBERTa": flash_deberta_attention, "disentangled-flash": disentangled_flash_attention}


def timed(call, repeat, device):
    """Seconds of each of `repeat` calls after some that are not counted, the peak of memory, and what the last returned."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def calls(count):
        wait(device)
        begin = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(device)
        return (time.perf_counter() - begin) / count, result

    try:
        calls(2)
        count = min(max(1, math.ceil(SHORTEST / calls(1)[0])), 1000)
        measured = [calls(count) for _ in range(repeat)]
    except torch.cuda.OutOfMemoryError:
        raise Failure("out of memory") from None
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return [seconds for seconds, _ in measured], peak, measured[-1][1]
