"""Trains the model in fixtures/shipped: masked language modelling through the enhanced mask decoder.

    python tools/shipped-model/train_shipped_model.py --work target/shipped-model --minutes 90
    python tools/shipped-model/export.py --work target/shipped-model --output fixtures/shipped

The learning rate follows the share of the time that is used up, so any budget ends in a finished model. The work folder
holds the vocabulary, a checkpoint every minute, and `log.csv`: minutes, steps, tokens, loss, held-out loss and accuracy.
"""

import argparse
import csv
import math
import random
import time
from pathlib import Path

import sentencepiece
import torch
from torch.nn import functional as F

import corpus
from model import CONFIG, MaskedLanguageModel

PIECES = 4000
CLS, SEP, UNK, MASK = 1, 2, 3, 4000  # as in the published vocabularies; [MASK] is added behind the pieces
SHARE_MASKED = 0.2  # of the tokens; 8 in 10 of them become [MASK], 1 a random token, 1 stays
BATCH_TOKENS = 2048
PEAK_RATE = {"muon": 0.01, "adamw": 2e-3}
EVERY = 7  # evaluation masks every seventh token, in seven passes: each token once


def vocabulary(work, train):
    """Trains a unigram SentencePiece model laid out as DeBERTa's: [PAD] [CLS] [SEP] [UNK], then bytes, then pieces."""
    path = work / "spm.model"
    if not path.exists():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(verse for _, verses in train for verse in verses),
            model_prefix=str(work / "spm"),
            model_type="unigram",
            vocab_size=PIECES,
            character_coverage=1.0,
            byte_fallback=True,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3,
            pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
            num_threads=1,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def tokens(spm, chapters):
    return [[spm.encode(verse) for verse in verses] for _, verses in chapters]


def draw(chapters, weights, length, rng):
    """Verses from a random one on, as many as fit; a verse that does not fit is cut."""
    verses = rng.choices(chapters, weights)[0]
    ids = []
    for verse in verses[rng.randrange(len(verses)) :]:
        ids += verse
        if len(ids) >= length - 2 or rng.random() < 0.2:
            break
    return [CLS, *ids[: length - 2], SEP]


def padded(sequences):
    length = max(map(len, sequences))
    return torch.tensor([s + [0] * (length - len(s)) for s in sequences])


def places(chosen):
    """The places chosen in each row, [B, M], M the most that a row has; a row with fewer ends in places to ignore."""
    most = int(chosen.sum(1).max())
    order = chosen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return order, chosen.gather(1, order)


def batch(chapters, weights, length, rng):
    """(tokens shown, which exist, the places to predict, the tokens there, -100 to ignore)."""
    ids = padded([draw(chapters, weights, length, rng) for _ in range(BATCH_TOKENS // length)])
    chosen = (ids > UNK) & (torch.rand(ids.shape) < SHARE_MASKED)
    dice = torch.rand(ids.shape)
    shown = torch.where(chosen & (dice < 0.8), MASK, ids)
    shown = torch.where(chosen & (dice > 0.9), torch.randint(UNK + 1, PIECES, ids.shape), shown)
    at, real = places(chosen)
    return shown, ids != 0, at, ids.gather(1, at).masked_fill(~real, -100)


def evaluation_batches(verses):
    """Each verse seven times: pass p masks the tokens p, p + 7, … . Yields what `batch` returns."""
    limit = CONFIG["max_position_embeddings"]
    sequences = sorted(([CLS, *v[: limit - 2], SEP] for v in verses if v), key=len)
    for start in range(0, len(sequences), 32):
        ids = padded(sequences[start : start + 32])
        place = torch.arange(ids.shape[1])[None] - 1
        for first in range(EVERY):
            chosen = (ids != 0) & (ids != CLS) & (ids != SEP) & (place % EVERY == first)
            at, real = places(chosen)
            yield torch.where(chosen, MASK, ids), ids != 0, at, ids.gather(1, at).masked_fill(~real, -100)


@torch.no_grad()
def evaluate(model, verses):
    """(cross-entropy, accuracy, number of tokens) over held-out verses."""
    loss, right, count = 0.0, 0, 0
    for shown, exists, at, labels in evaluation_batches(verses):
        if at.numel():
            logits = model(shown, exists, at)
            loss += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
            right += (logits.argmax(-1) == labels).sum().item()
            count += (labels >= 0).sum().item()
    return loss / count, right / count, count


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal by five Newton-Schulz iterations (K. Jordan, 2024), all matrices of one
    shape at once. In f32: PyTorch's own works in bf16, which is slow on processors without it."""

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    MOMENTUM = 0.95

    def __init__(self, matrices):
        super().__init__(matrices, {"lr": 1.0})

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        shapes = {}
        for p in group["params"]:
            shapes.setdefault(tuple(p.shape), []).append(p)
        for (rows, columns), matrices in shapes.items():
            gradients = torch.stack([p.grad for p in matrices])
            momentum = self.state[matrices[0]].setdefault("momentum", torch.zeros_like(gradients))
            momentum.lerp_(gradients, 1 - self.MOMENTUM)
            x = gradients.lerp(momentum, self.MOMENTUM)
            x = x if rows <= columns else x.mT
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            a, b, c = self.COEFFICIENTS
            for _ in range(5):
                gram = x @ x.mT
                x = a * x + (b * gram + c * gram @ gram) @ x
            x = x if rows <= columns else x.mT
            for p, step in zip(matrices, x):
                p.add_(step, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def optimizers(model):
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and biases."""
    matrices, others = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim == 2 and ".layer." in name else others).append(p)
    return [
        (Muon(matrices), PEAK_RATE["muon"]),
        (torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.01), PEAK_RATE["adamw"]),
    ]


def rate(share):
    """Up over the first 2 %, then down along a cosine."""
    return min(1.0, share / 0.02) * 0.5 * (1 + math.cos(math.pi * share))


def train(work, minutes, seed):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    to_train, to_test = corpus.split()
    spm = vocabulary(work, to_train)
    chapters, held_out = tokens(spm, to_train), [v for verses in tokens(spm, to_test) for v in verses]
    weights = [sum(map(len, verses)) for verses in chapters]
    probe = random.Random(0).sample(held_out, 100)
    print(f"{sum(weights)} tokens to train on, {sum(map(len, held_out))} held out")
    model = MaskedLanguageModel()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    steps_of = optimizers(model)
    began, used, last, step, seen, mean = time.process_time(), 0.0, 0.0, 0, 0, None
    clock = time.monotonic()
    with open(work / "log.csv", "w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["minutes", "processor_minutes", "steps", "tokens", "loss", "held_out_loss", "held_out_accuracy"])
        while used < minutes:
            # One step in eight is on sequences twice as long, so that later positions learn too.
            shown, exists, at, labels = batch(chapters, weights, 126 if step % 8 == 7 else 64, rng)
            loss = F.cross_entropy(model(shown, exists, at).flatten(0, 1), labels.flatten())
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, peak in steps_of:
                for group in optimizer.param_groups:
                    group["lr"] = peak * rate(used / minutes)
                optimizer.step()
            step, seen = step + 1, seen + int(exists.sum())
            mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
            used = (time.monotonic() - clock) / 60
            if used - last >= 1.0 or used >= minutes:
                last = used
                tested, accuracy, _ = evaluate(model, probe)
                spent = (time.process_time() - began) / 60
                log.writerow([f"{used:.2f}", f"{spent:.2f}", step, seen, f"{mean:.4f}", f"{tested:.4f}", f"{accuracy:.4f}"])
                file.flush()
                torch.save(model.state_dict(), work / "model.pt")
                print(f"{used:6.1f} min {step:6d} steps {seen:9d} tokens  loss {mean:.3f}  held out {tested:.3f}, {accuracy:.1%}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    train(arguments.work, arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
