"""What the pipelines are asked: models with random weights, texts of every kind, and the options of each task.

A group is a model, a task, and the options under which many inputs are run:

    {"model", "task", "arguments": [of deberta-ref], "options": {of the pipeline}, "inputs": [one object each]}

`arguments` and `options` say the same thing to the two programs; an input has the pipeline's own argument names.
"""

import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
NLI = ["contradiction", "neutral", "entailment"]


def labels(names):
    return {"id2label": {str(i): n for i, n in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}


# name: the weights, what the configuration says beyond the common part, and what tokenizer_config.json says.
MODELS = {
    "mlm": ("mlm", {"architectures": ["DebertaV2ForMaskedLM"]}, {}),
    "mlm-new": ("mlm-new", {"architectures": ["DebertaV2ForMaskedLM"], "legacy": False}, {}),
    "single": ("classes", labels(["bad", "fair", "good"]), {}),
    "multi": ("classes", labels(["bad", "fair", "good"]) | {"problem_type": "multi_label_classification"}, {}),
    "values": ("classes", labels(["x", "y", "z"]) | {"problem_type": "regression"}, {}),
    "nli": ("classes", labels(NLI), {"model_max_length": 24}),
    "nli-first": ("classes", labels(["Entailment", "neutral", "contradiction"]), {}),
    "nli-unnamed": ("classes", labels(["x", "y", "z"]), {}),
    "one": ("one", labels(["good"]), {}),
    "value": ("one", labels(["value"]) | {"problem_type": "regression"}, {}),
    "tags": ("tags", labels(NER), {}),
    "tags-short": ("tags", labels(NER), {"model_max_length": 20}),
    "tags-plain": ("tags", labels(["O", "NOUN", "VERB", "A-B-C", "X", "B-"]), {}),
    "answers": ("answers", {}, {}),
    "answers-short": ("answers", {}, {"model_max_length": 40}),
    "choices": ("one", labels(["choice"]), {"model_max_length": 28}),
    "base": ("mlm", {}, {}),
}

WORDS = """the a of house water light man woman school river old good new bread street music it was is in by and or not what
who where when Ada Lovelace London Berlin Paris Mr. don't re-made U.S.A. 1984 3.14 50% — “quoted” naïve café straße größe
Übermut español niño русский мир вода 中国 你好 東京 한국어 عربي עברית नमस्ते ½ ﬁ Ａ ① 😀 👩‍👩‍👧 e\u0301 A\u0300\u0301 <tag> http://a.b/c?d=e#f
x=y+z; [SEP] [MASK]ed ▁ ▁the\u00a0and""".replace("\n", " ").split(" ")
SPACES = [" "] * 12 + ["  ", "   ", "\n", "\n\n", "\t", " \r\n ", "\u00a0", "", "\u3000"]


def text(rng, low=1, high=30):
    """Words with spaces of every kind between them, and now and then around them."""
    parts = []
    for _ in range(rng.randint(low, high)):
        parts += [rng.choice(WORDS), rng.choice(SPACES)]
    if parts and rng.random() < 0.8:
        parts.pop()
    if rng.random() < 0.15:
        parts.insert(0, rng.choice(SPACES))
    return "".join(parts)


def masked(rng, count):
    parts = [text(rng, 0, 8) for _ in range(count + 1)]
    joined = parts[0]
    for part in parts[1:]:
        joined += rng.choice([" ", " ", ""]) + "[MASK]" + rng.choice([" ", "", "."]) + part
    return joined


def question(rng, high=60):
    return {"question": text(rng, 1, 10), "context": text(rng, 1, high)}


def groups(rng, count):
    """The groups of one set, each with `count` inputs drawn."""
    texts = lambda low=1, high=30: [{"text": text(rng, low, high)} for _ in range(count)]
    pairs = lambda: [{"text": text(rng), "text_pair": text(rng, 0, 12)} for _ in range(count)]
    some = lambda make: [make() for _ in range(count)]

    def group(model, task, inputs, arguments=(), **options):
        return {"model": model, "task": task, "arguments": list(arguments), "options": options, "inputs": inputs}

    yield group("mlm", "fill-mask", some(lambda: {"text": masked(rng, 1)}))
    yield group("mlm", "fill-mask", some(lambda: {"text": masked(rng, rng.randint(2, 4))}), ["--top-k", "3"], top_k=3)
    yield group("mlm-new", "fill-mask", some(lambda: {"text": masked(rng, rng.randint(1, 2))}), ["--top-k", "2"], top_k=2)
    targets = ["▁house", "house", "the", "▁water", "[UNK]", "Berlin", "▁house", "zzzz"]
    yield group("mlm", "fill-mask", some(lambda: {"text": masked(rng, rng.randint(1, 2))}),
                ["--targets", ",".join(targets)], targets=targets)

    yield group("single", "classify", texts())
    yield group("single", "classify", pairs(), ["--top-k", "all"], top_k=None)
    yield group("single", "classify", texts(), ["--top-k", "2", "--function-to-apply", "sigmoid"], top_k=2,
                function_to_apply="sigmoid")
    yield group("multi", "classify", texts(), ["--top-k", "all"], top_k=None)
    yield group("multi", "classify", pairs())
    yield group("values", "classify", texts(), ["--top-k", "all"], top_k=None)
    yield group("one", "classify", texts())
    yield group("value", "classify", pairs())
    yield group("value", "classify", texts(0, 3), ["--function-to-apply", "softmax"], function_to_apply="softmax")

    some_labels = lambda: rng.sample(["politics", "sport", "the house", "Ada", "niño", "数", "a, b", ""], rng.randint(2, 5))
    zero = lambda make, high=30: some(lambda: {"text": text(rng, 1, high), "candidate_labels": make()})
    yield group("nli", "zero-shot", zero(some_labels))
    yield group("nli", "zero-shot", zero(some_labels), ["--multi-label"], multi_label=True)
    yield group("nli-first", "zero-shot", zero(some_labels), ["--multi-label", "--hypothesis-template", "{{}} about {}"],
                multi_label=True, hypothesis_template="{{}} about {}")
    yield group("nli-first", "zero-shot", zero(lambda: ["politics"]))
    yield group("nli-unnamed", "zero-shot", zero(lambda: "politics, sport ,,the house"))

    for strategy in ["none", "simple", "first", "average", "max"]:
        arguments = ["--aggregation-strategy", strategy]
        yield group("tags", "tag", texts(), arguments, aggregation_strategy=strategy)
        yield group("tags-plain", "tag", texts(1, 15), arguments + ["--ignore-labels", "NOUN,X"],
                    aggregation_strategy=strategy, ignore_labels=["NOUN", "X"])
        yield group("tags-short", "tag", texts(1, 40), arguments, aggregation_strategy=strategy)
        if strategy != "none":
            for stride in [0, 5]:
                yield group("tags-short", "tag", texts(1, 60), arguments + ["--stride", str(stride)],
                            aggregation_strategy=strategy, stride=stride)
    yield group("tags", "tag", texts(), ["--ignore-labels", ""], ignore_labels=[""])

    yield group("choices", "choose", some(lambda: {
        "prompt": text(rng, 1, 20), "choices": [text(rng, 0, 12) for _ in range(rng.randint(1, 6))]}))
    yield group("base", "embed", texts(0, 8), ["--pooling", "tokens"])


def question_groups(rng, count):
    """The same for the pipeline that transformers 5 has no more."""
    def group(model, inputs, arguments=(), **options):
        return {"model": model, "task": "answer", "arguments": list(arguments), "options": options, "inputs": inputs}

    some = lambda make: [make() for _ in range(count)]
    ask = lambda high=60: some(lambda: question(rng, high))
    yield group("answers", ask())
    yield group("answers", ask(4), ["--top-k", "4"], top_k=4)
    yield group("answers", ask(), ["--top-k", "3", "--no-align-to-words"], top_k=3, align_to_words=False)
    yield group("answers", ask(), ["--no-align-to-words"], align_to_words=False)
    yield group("answers", ask(), ["--handle-impossible-answer", "--max-answer-len", "3", "--top-k", "2"],
                handle_impossible_answer=True, max_answer_len=3, top_k=2)
    yield group("answers", ask(150), ["--max-seq-len", "64", "--doc-stride", "20", "--top-k", "3"],
                max_seq_len=64, doc_stride=20, top_k=3)
    yield group("answers-short", some(lambda: {"question": text(rng, 1, 2), "context": text(rng, 1, 120)}),
                ["--handle-impossible-answer", "--doc-stride", "4"], handle_impossible_answer=True, doc_stride=4)
    yield group("answers", some(lambda: {"question": "the", "context": " ".join(["The", "house"] * rng.randint(1, 12))}),
                ["--top-k", "5"], top_k=5)


def common_config(vocabulary, hidden):
    return {
        "model_type": "deberta-v2", "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 2 * hidden, "hidden_act": "gelu", "max_position_embeddings": 512,
        "type_vocab_size": 2, "relative_attention": True, "max_relative_positions": -1, "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
        "position_biased_input": False, "conv_kernel_size": 3, "conv_act": "gelu", "pad_token_id": 0,
        "pooler_hidden_act": "gelu", "layer_norm_eps": 1e-7,
    }


def make_models(folder, spm, vocabulary, hidden, seed, names=MODELS):
    """Model directories with weights, configuration and tokenizer files. Needs transformers 5."""
    import transformers

    classes = {
        "mlm": transformers.DebertaV2ForMaskedLM, "mlm-new": transformers.DebertaV2ForMaskedLM,
        "classes": transformers.DebertaV2ForSequenceClassification,
        "one": transformers.DebertaV2ForSequenceClassification, "tags": transformers.DebertaV2ForTokenClassification,
        "answers": transformers.DebertaV2ForQuestionAnswering,
    }
    kept = {}
    for name in names:
        weights, config, tokenizer = MODELS[name]
        path = Path(folder) / name
        path.mkdir(parents=True, exist_ok=True)
        config = common_config(vocabulary, hidden) | config
        (path / "config.json").write_text(json.dumps(config, indent=1))
        tokenizer = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False} | tokenizer
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=1))
        shutil.copy(spm, path / "spm.model")
        if weights not in kept:
            model = classes[weights](transformers.DebertaV2Config.from_pretrained(path))
            g = torch.Generator().manual_seed(seed + len(kept))
            with torch.no_grad():
                for parameter, p in model.named_parameters():
                    noise = torch.randn(p.shape, generator=g)
                    # Classes that a text decides between, neither all alike nor all certain.
                    std = 0.7 if parameter.split(".")[0] in ("classifier", "qa_outputs") else 0.4
                    p.copy_(1 + 0.3 * noise if parameter.endswith("LayerNorm.weight") else std * noise)
            kept[weights] = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()
                             if k != "cls.predictions.decoder.weight"}
        save_file(kept[weights], str(path / "model.safetensors"), metadata={"format": "pt"})
    return kept


TOKENIZERS = {}


def tokenizer_of(path):
    """The tokenizer of whichever transformers runs. Models with the same settings share it: 128,000 pieces take seconds."""
    import transformers

    settings = (path / "tokenizer_config.json").read_text()
    if settings not in TOKENIZERS:
        five = int(transformers.__version__.split(".")[0]) >= 5
        kind = transformers.DebertaV2Tokenizer if five else transformers.DebertaV2TokenizerFast
        TOKENIZERS[settings] = kind.from_pretrained(path)
    return TOKENIZERS[settings]


def tokenizer_and_model(path, task):
    """The tokenizer and the model with the head of the task."""
    import transformers

    tokenizer = tokenizer_of(path)
    heads = {"fill-mask": "DebertaV2ForMaskedLM", "classify": "DebertaV2ForSequenceClassification",
             "zero-shot": "DebertaV2ForSequenceClassification", "tag": "DebertaV2ForTokenClassification",
             "answer": "DebertaV2ForQuestionAnswering", "choose": "DebertaV2ForMultipleChoice", "embed": "DebertaV2Model"}
    return tokenizer, getattr(transformers, heads[task]).from_pretrained(path).eval()


PIPELINES = {"fill-mask": "fill-mask", "classify": "text-classification", "zero-shot": "zero-shot-classification",
             "tag": "token-classification", "answer": "question-answering", "embed": "feature-extraction"}


def plain(value):
    """Numbers of numpy as Python's."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def reference(folder, group):
    """What the pipeline answers to every input of the group."""
    from transformers import pipeline

    tokenizer, model = tokenizer_and_model(Path(folder) / group["model"], group["task"])
    if group["task"] == "choose":
        return [choose(tokenizer, model, **i) for i in group["inputs"]]
    pipe = pipeline(PIPELINES[group["task"]], model=model, tokenizer=tokenizer, device="cpu")
    options = group["options"]
    results = []
    for i in group["inputs"]:
        if group["task"] == "classify":
            given = i if "text_pair" in i else i["text"]
            found = pipe(given, **options)
            # One text by itself comes back in a list; in a list of texts, as here, it does not.
            results.append(found[0] if isinstance(given, str) and "top_k" not in options else found)
        elif group["task"] == "zero-shot":
            results.append(pipe(i["text"], candidate_labels=i["candidate_labels"], **options))
        elif group["task"] == "answer":
            results.append(pipe(question=i["question"], context=i["context"], **options))
        else:
            results.append(pipe(i["text"], **options))
    return plain(results)


def choose(tokenizer, model, prompt, choices):
    """transformers has no pipeline for this: the example `run_swag`, with the softmax of its logits."""
    import numpy as np

    with torch.no_grad():
        # Lists, as there: alone, an empty choice would be no second text.
        encoded = [tokenizer([prompt], [choice], truncation=True, return_tensors="pt") for choice in choices]
        logits = [model(**{k: v[None] for k, v in e.items()}).logits.item() for e in encoded]
    powers = np.exp(np.float32(logits) - np.max(np.float32(logits)))
    scores = powers / powers.sum()
    return {"choice": int(scores.argmax()), "scores": [s.item() for s in scores]}
