"""Writes what `train_shipped_model.py` trained as a model directory, and measures it.

    python tools/shipped-model/export.py --work target/shipped-model --output fixtures/shipped

The directory holds config.json, model.safetensors (f16), spm.model and the tokenizer's files, the training log, held-out
verses, a model card with the loss curve, and `measured.json`: accuracy and loss of the rounded weights on all held-out verses, with the unigram baseline.
`cargo run --release --example masked_accuracy` measures the accuracy again, with deberta-ref.
"""

import argparse
import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2

import corpus
from model import CONFIG, MaskedLanguageModel
from train_shipped_model import EVERY, MASK, evaluate, tokens

SHIPPED_VERSES = 300  # of the held-out ones, every k-th: what is measured again from the repository
TOKENIZER = {
    "tokenizer_class": "DebertaV2Tokenizer",
    "do_lower_case": False,
    "split_by_punct": False,
    "vocab_type": "spm",
    "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
    "unk_token": "[UNK]", "mask_token": "[MASK]", "bos_token": "[CLS]", "eos_token": "[SEP]",
}


def unigram(train, test):
    """(accuracy, cross-entropy) of saying the most frequent token, and its frequency, whatever stands around it."""
    counts = Counter(token for verses in train for verse in verses for token in verse)
    total, every = sum(counts.values()), [token for verse in test for token in verse]
    best = counts.most_common(1)[0][0]
    smoothed = lambda token: (counts[token] + 1) / (total + CONFIG["vocab_size"])
    return sum(t == best for t in every) / len(every), -sum(math.log(smoothed(t)) for t in every) / len(every)


CARD = """# The shipped model

A small DeBERTa-v2 that predicts masked words, so that the commands of this repository have something real to show without
a download. It has every component of the published models: disentangled attention with shared projections and logarithmic
buckets, layer-normed relative rows, the convolution after the first layer, and the enhanced mask decoder.

| | |
|---|---|
| parameters | {parameters:,}, stored in f16 ({size:.1f} MB) |
| architecture | {layers} layers (the last is the decoder's), hidden size {hidden}, {heads} heads, intermediate size {inner}, kernel {kernel}, {buckets} buckets for distances up to {maximum} |
| vocabulary | {pieces} unigram pieces with byte fallback, by sentencepiece 0.2.1, from the training text; `[MASK]` is {mask} |
| longest text | {longest} tokens |
| text | the King James Version, as Debian's packages `bible-kjv` and `bible-kjv-text` print it: {train_tokens:,} tokens to train on. The translation of 1611 is in the public domain (in the United Kingdom its printing is a privilege of the Crown) |
| held out | one chapter in twenty, by a checksum of its name: {verses:,} verses, {test_tokens:,} tokens, kept from the vocabulary too |
| training | masked language modelling through the enhanced mask decoder: {steps:,} steps, {seen:,} tokens ({epochs:.1f} times the text), {processor:.0f} minutes of one processor core, PyTorch {torch}, f32; one token in five masked |

## How good it is

Every token of the held-out verses was masked once, every seventh at a time.

| | accuracy | cross-entropy |
|---|---|---|
| this model, all held-out verses | **{accuracy:.1%}** | {loss:.3f} |
| the most frequent token, whatever stands around it | {unigram:.1%} | {unigram_loss:.3f} |
| this model, the verses in `held-out.txt` | {shipped:.1%} | {shipped_loss:.3f} |

`cargo run --release --example masked_accuracy` measures the last line again with deberta-ref; a test holds it to PyTorch's figure.

![Loss and held-out accuracy against tokens](training.svg)

It knows the English of one book and no facts; on other text it guesses. It is not a pre-trained model to build upon.

Made by `tools/shipped-model/train_shipped_model.py` and `tools/shipped-model/export.py`. The training follows the clock, so a second run
ends near these figures, not at the same weights.
"""

STYLE = """
  svg { color: #1f2328; font: 12px sans-serif }
  text { fill: currentColor } .grid { stroke: currentColor; stroke-opacity: .2 }
  path { fill: none; stroke-width: 1.8 } .loss { stroke: #0969da } .test { stroke: #bc4c00; stroke-dasharray: 6 3 } .accuracy { stroke: #1a7f37 }
  @media (prefers-color-scheme: dark) { svg { color: #e6edf3 } .loss { stroke: #58a6ff } .test { stroke: #f0883e } .accuracy { stroke: #3fb950 } }
"""


def curve(log):
    """The loss curve as an SVG: cross-entropies on the left, the accuracy on the right, both against tokens seen."""
    left, right, top, bottom = 50, 590, 30, 290
    last = max(row["tokens"] for row in log)
    x = lambda row: left + (right - left) * row["tokens"] / last
    loss_y = lambda v: bottom - (bottom - top) * v / 8
    share_y = lambda v: bottom - (bottom - top) * v / 0.8
    body = []
    for tick in range(0, 9, 2):
        y = loss_y(tick)
        body += [
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>',
            f'<text x="{right + 8}" y="{y + 4:.1f}">{tick * 10} %</text>',
        ]
    for part in range(5):
        at = left + (right - left) * part / 4
        body.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{last * part / 4 / 1e6:.1f}</text>')
    lines = [
        ("loss", "loss", loss_y, "loss in training"),
        ("held_out_loss", "test", loss_y, "loss on held-out verses"),
        ("held_out_accuracy", "accuracy", share_y, "held-out accuracy (right axis)"),
    ]
    for i, (key, kind, y, words) in enumerate(lines):
        points = " L".join(f"{x(row):.1f},{max(top, y(row[key])):.1f}" for row in log)
        at = left + 10 + 180 * i
        body += [
            f'<path class="{kind}" d="M{points}"/>',
            f'<path class="{kind}" d="M{at},{top - 14} h24"/><text x="{at + 30}" y="{top - 10}">{words}</text>',
        ]
    body.append(f'<text x="{(left + right) / 2}" y="{bottom + 36}" text-anchor="middle">million tokens</text>')
    title = "Loss and held-out accuracy of the shipped model against tokens seen"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 334" role="img" aria-label="{title}">',
        f"<title>{title}</title>", f"<style>{STYLE}</style>", *body, "</svg>", "",
    ])


def card(output, log, measured, state, train_tokens):
    every, shipped = measured["all held-out verses"], measured["held-out.txt"]
    return CARD.format(
        parameters=sum(t.numel() for t in state.values()), size=(output / "model.safetensors").stat().st_size / 1e6,
        layers=CONFIG["num_hidden_layers"], hidden=CONFIG["hidden_size"], heads=CONFIG["num_attention_heads"],
        inner=CONFIG["intermediate_size"], kernel=CONFIG["conv_kernel_size"], buckets=CONFIG["position_buckets"],
        maximum=CONFIG["max_relative_positions"], longest=CONFIG["max_position_embeddings"], pieces=MASK, mask=MASK,
        train_tokens=train_tokens, verses=every["verses"], test_tokens=every["tokens"], torch=torch.__version__.split("+")[0],
        steps=int(log[-1]["steps"]), seen=int(log[-1]["tokens"]), epochs=log[-1]["tokens"] / train_tokens,
        processor=log[-1]["processor_minutes"], accuracy=every["accuracy"], loss=every["loss"],
        unigram=every["unigram_accuracy"], unigram_loss=every["unigram_loss"],
        shipped=shipped["accuracy"], shipped_loss=shipped["loss"],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="measure on the shipped verses only")
    parser.add_argument("--remark", default="", help="a sentence for the card, such as why the training ended")
    arguments = parser.parse_args()
    work, output = arguments.work, arguments.output
    output.mkdir(parents=True, exist_ok=True)

    state = {name: tensor.half() for name, tensor in torch.load(work / "model.pt", weights_only=True).items()}
    save_file(state, output / "model.safetensors", metadata={"format": "pt"})
    (output / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": "float16"}, indent=2) + "\n")
    (output / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2) + "\n")
    (output / "added_tokens.json").write_text(json.dumps({"[MASK]": MASK}) + "\n")
    vocabulary = sentencepiece_model_pb2.ModelProto.FromString((work / "spm.model").read_bytes())
    vocabulary.trainer_spec.model_prefix = "spm"  # the folder of the machine that it was trained on is nobody's business
    (output / "spm.model").write_bytes(vocabulary.SerializeToString())
    shutil.copy(work / "log.csv", output / "training.csv")

    train, test = corpus.split()
    lines = [verse for _, verses in test for verse in verses]
    shipped = lines[:: max(1, len(lines) // SHIPPED_VERSES)][:SHIPPED_VERSES]
    (output / "held-out.txt").write_text("".join(line + "\n" for line in shipped))
    spm = sentencepiece.SentencePieceProcessor(model_file=str(output / "spm.model"))
    model = MaskedLanguageModel()
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    trained_on = tokens(spm, train)
    measured = {"masked": f"every {EVERY}th token, {EVERY} passes"}
    sets = {"held-out.txt": shipped} | ({} if arguments.quick else {"all held-out verses": lines})
    for name, verses in sets.items():
        encoded = [spm.encode(verse) for verse in verses]
        loss, accuracy, count = evaluate(model, encoded)
        base, base_loss = unigram(trained_on, encoded)
        measured[name] = {
            "verses": len(verses), "tokens": count,
            "accuracy": round(accuracy, 5), "loss": round(loss, 5),
            "unigram_accuracy": round(base, 5), "unigram_loss": round(base_loss, 5),
        }
    (output / "measured.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    if not arguments.quick:
        with open(work / "log.csv", newline="") as file:
            log = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        train_tokens = sum(len(verse) for verses in trained_on for verse in verses)
        (output / "training.svg").write_text(curve(log))
        text = card(output, log, measured, state, train_tokens)
        (output / "README.md").write_text(text + (f"\n{arguments.remark}\n" if arguments.remark else ""))


if __name__ == "__main__":
    main()
