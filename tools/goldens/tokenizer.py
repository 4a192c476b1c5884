#!/usr/bin/env python3
"""Makes fixtures/tokenizer: a small SentencePiece model, and what three reference tokenizers make of nasty texts with it.

    python tokenizer.py train  FIXTURES             # sentencepiece==0.2.1
    python tokenizer.py golden FIXTURES slow        # transformers==4.57.6, sentencepiece==0.2.1
    python tokenizer.py golden FIXTURES hf-4-fast   # transformers==4.57.6, tokenizers==0.22.2
    python tokenizer.py golden FIXTURES hf-5        # transformers==5.23.0, tokenizers==0.23.3
    python tokenizer.py manifest FIXTURES

FIXTURES is fixtures/tokenizer of the repository. The corpus, the texts and the seed stand in this file, so that the same
versions write the same bytes.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile

SEED = 20260701
PIECES = 650
VERSIONS = {
    "train": {"sentencepiece": "0.2.1"},
    "slow": {"transformers": "4.57.6", "sentencepiece": "0.2.1"},
    "hf-4-fast": {"transformers": "4.57.6", "tokenizers": "0.22.2", "sentencepiece": "0.2.1"},
    "hf-5": {"transformers": "5.23.0", "tokenizers": "0.23.3", "sentencepiece": "0.2.1"},
}
WORDS = """the a of to and in is was for on that with as it by from at this are be an or which not have were has had
    their one all we can there been if more when will no out so what up who said about time them some could into then two
    other than its now only people over new our after most also made did many must through years where much your way well
    down should because each just those how too little state good very make world still see own work long both between
    being under never day same another know while last might great old year off come since against go came right used take
    three language model token piece text byte word char river mountain house street school music water bread light green
    der die und das ist nicht ein eine zu mit auf für von dem sich des den im haus straße wasser groß schön über
    le la les et est une dans pour que qui sur pas avec par être école été où français garçon
    el los del que en una por con para como más pero año niño está también
    это не на что как он она они был была мир вода дом язык слово
    και το είναι στο για με που την λόγος νερό σπίτι
    こと もの これ それ 世界 言語 水 家 的 是 不 了 在 人 有 我 他 这 中国 你好
    अ का है में से को और पानी घर भाषा مرحبا العالم لغة ماء بيت שלום עולם מים""".split()


def at(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
            "special": False} | flags


# tokenizer_config.json and the other files of each model directory; all have the same spm.model.
CASES = {
    "plain": {},
    "flags": {"tokenizer_config.json": {"added_tokens_decoder": {
        "0": at("[PAD]", special=True), "1": at("[CLS]", special=True), "2": at("[SEP]", special=True),
        "3": at("[UNK]", special=True, normalized=True), f"{PIECES}": at("[MASK]", special=True, lstrip=True),
        f"{PIECES + 1}": at("<l>", lstrip=True), f"{PIECES + 2}": at("<r>", rstrip=True),
        f"{PIECES + 3}": at("<lr>", lstrip=True, rstrip=True, normalized=True), f"{PIECES + 4}": at("single", single_word=True),
        f"{PIECES + 5}": at("NewTok", normalized=True), f"{PIECES + 6}": at("extra_id_1", special=True),
        f"{PIECES + 7}": at("extra_id_100", special=True), f"{PIECES + 8}": at("ｆｕｌｌ", normalized=True)}}},
    "lower": {"tokenizer_config.json": {"do_lower_case": True, "clean_up_tokenization_spaces": True},
              "added_tokens.json": {"[MASK]": PIECES, "Foo": PIECES + 1}},
    "punct": {"tokenizer_config.json": {"split_by_punct": True, "add_prefix_space": False, "do_lower_case": True},
              "special_tokens_map.json": {"mask_token": {"content": "[MASK]", "lstrip": True, "rstrip": False,
                                                         "normalized": True, "single_word": False},
                                          "additional_special_tokens": ["<e1>", "<e2>"]}},
}
TEXTS = [
    "", " ", "   ", "\n", "\t \n", "\u3000", "\u00a0", "\u200b", "\ufeff", "\u0000", "a\u0000b", "\x1c", "\x85",
    "hello world", "  hello   world  ", "Hello World!", "the\ttext\nand\r\nthe word", "one\u00a0two\u3000three\u2003four",
    "…", "a…b … c", "½ ﬁ Ａ ① ㎏ ﷺ ™ ²", "ｆｕｌｌ width", "e\u0301te\u0301 été", "A\u0300\u0301 A\u0301\u0300",
    "\u0301", "\u0301\u0302 x", "a\u0316\u0301\u0300", "क्षि में पानी", "ด้วย น้ำ", "مرحبا بالعالم", "שלום עולם \u202e abc",
    "世界の言語", "中国 你好", "䀀 㐀 𩸽", "🤔 🤔🤔", "👨\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 👍🏽", "\U000f0000 \U0010ffff \ufffe", "ᄀ가 각 한국어 \u1100\u1161\u11a8",
    "Straße STRASSE ẞ", "İstanbul ıI", "ΛΌΓΟΣ ΟΔΟΣ. Σ", "Это мир. НЕ", "don't can't we'll", "a.b,c;d:e!f?g", "!!! ... --- \"x\"",
    "«été» „Haus“ 「家」 ¡niño!", "http://a.b/c?d=e&f#g", "2000 3.14 1,000,000 ٣ Ⅷ", "$5 €6 ^ ` ~ | < > = +",
    "[CLS] [SEP] [PAD] [UNK] [MASK]", "x[MASK]y", "x [MASK] y", "x  [MASK]  y", "[MASK][MASK]", "[mask] [Mask]", "[MASK", "[[MASK]]",
    "a <l> b <r> c <lr> d", "a<l>b<r>c<lr>d", "  <l>  <r>  <lr>  ", "single", "a single b", "asingle singleb", "single.", "a\tsingle\nb",
    "NewTok newtok NEWTOK", "aNewTokb", "extra_id_1 extra_id_100 extra_id_10", "extra_id_1000", "<e1><e2> <e1>", "Foo foo FOO Food",
    "<0xE4> <unk> <pad> <s>", "▁ ▁▁ a▁b", "\\n \\", "the " * 40, "x" * 200, "語" * 80, "a " * 3 + "\n" * 5 + "b",
    "\u202a\u202b\u202c\u2066\u2069", "a\u00adb", "a\u2060b\u200cc\u200dd", "\ufdfa", "ﬃ ﬄ ĳ ǆ", "Å Å Å", "Ω Ω", "\u0344 \u0958 \u2126",
]
PAIRS = [("hello world", "the house"), ("", "the house"), ("the " * 20, "a word"), ("a word", "the " * 20), ("été " * 9, "мир " * 9),
         ("x [MASK]", "[SEP] y"), ("…", "½ 䀀"), ("世界 " * 7, "water " * 6)]
OPTIONS = [
    {}, {"truncation": "longest_first", "max_length": 8}, {"truncation": "longest_first", "max_length": 9},
    {"truncation": "longest_first", "max_length": 10, "truncation_side": "left"},
    {"padding": "max_length", "max_length": 24}, {"padding": "max_length", "max_length": 20, "padding_side": "left"},
    {"padding": "max_length", "max_length": 20, "pad_to_multiple_of": 16},
    {"add_special_tokens": False},
]
OVERFLOW = [{"truncation": "longest_first", "max_length": 12, "stride": 2},
            {"truncation": "longest_first", "max_length": 11, "stride": 3, "truncation_side": "left"}]


def corpus():
    rng = random.Random(SEED)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 14))) + rng.choice([".", "!", "?", ",", ""]) for _ in range(6000)]


def train(fixtures):
    import sentencepiece

    with tempfile.TemporaryDirectory() as scratch:
        text = pathlib.Path(scratch, "corpus.txt")
        text.write_text("\n".join(corpus()), encoding="utf-8")
        # The model file holds the paths it was made with: let them be the same anywhere.
        os.chdir(scratch)
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix="spm", model_type="unigram", vocab_size=PIECES, byte_fallback=True,
            character_coverage=1.0, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
            eos_piece="[SEP]", unk_piece="[UNK]", num_threads=1, minloglevel=2)
        shutil.copy("spm.model", fixtures / "spm.model")
    for case, files in CASES.items():
        (fixtures / case).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (fixtures / case / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(profile, directory):
    import transformers

    transformers.logging.set_verbosity_error()
    name = "DebertaV2TokenizerFast" if profile == "hf-4-fast" else "DebertaV2Tokenizer"
    return getattr(transformers, name).from_pretrained(str(directory))


def encode(tokenizer, profile, texts, options):
    options = dict(options)
    tokenizer.truncation_side = options.pop("truncation_side", "right")
    encoded = tokenizer(*texts, return_special_tokens_mask=True, **options,
                        **({} if profile == "slow" else {"return_offsets_mapping": True}))
    fields = ["input_ids", "token_type_ids", "attention_mask", "special_tokens_mask"]
    out = {"texts": list(texts)} | {field: encoded[field] for field in fields}
    if profile != "slow":
        out["offsets"] = encoded["offset_mapping"]
    return out, encoded


def golden(fixtures, profile):
    out = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(fixtures / "spm.model", directory)
            for name in CASES[case]:
                shutil.copy(fixtures / case / name, directory)
            tokenizer = load(profile, directory)
        singles = []
        for text in TEXTS:
            row, encoded = encode(tokenizer, profile, [text], {})
            row["tokens"] = tokenizer.tokenize(text) if profile == "slow" else encoded.tokens()[1:-1]
            if profile != "slow":
                row["word_ids"] = encoded.word_ids()
            for skip in (False, True):
                row["skipped" if skip else "decoded"] = tokenizer.decode(row["input_ids"], skip_special_tokens=skip)
            singles.append(row)
        with_options = []
        for options in OPTIONS:
            rows = [encode(tokenizer, profile, pair, options)[0] for pair in PAIRS]
            with_options.append({"options": options, "rows": rows})
        overflow = []
        for options in OVERFLOW if profile != "slow" else []:
            # In a list, so that an empty second text is one.
            rows = [encode(tokenizer, profile, [[a], [b]], options | {"return_overflowing_tokens": True})[0] for a, b in PAIRS]
            for row, pair in zip(rows, PAIRS):
                row["texts"] = list(pair)
            overflow.append({"options": options, "rows": rows})
        out[case] = {"len": len(tokenizer), "vocab_size": tokenizer.vocab_size, "singles": singles, "pairs": with_options,
                     "overflow": overflow}
    write(fixtures / f"{profile}.json", out)


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n", encoding="utf-8")


def manifest(fixtures):
    files = sorted(p for p in fixtures.rglob("*") if p.is_file() and p.name != "manifest.json")
    sums = {str(p.relative_to(fixtures)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    commands = ["tools/goldens/tokenizer.py train fixtures/tokenizer"]
    commands += [f"tools/goldens/tokenizer.py golden fixtures/tokenizer {p}" for p in ("slow", "hf-4-fast", "hf-5")]
    value = {"seed": SEED, "versions": VERSIONS, "commands": commands, "sha256": sums}
    (fixtures / "manifest.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main():
    step, fixtures, *rest = sys.argv[1:]
    fixtures = pathlib.Path(fixtures).absolute()
    fixtures.mkdir(parents=True, exist_ok=True)
    for package, wanted in VERSIONS.get(rest[0] if rest else step, {}).items():
        found = importlib.metadata.version(package)
        if found != wanted:
            sys.exit(f"{package} is {found}; these goldens are made with {wanted}")
    {"train": train, "golden": golden, "manifest": manifest}[step](fixtures, *rest)


if __name__ == "__main__":
    main()
