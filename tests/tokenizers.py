"""Small tokenizers of each kind that encoders have."""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

WORDS = ["sunny", "calm", "fine", "sad", "awful", "dark", "room", "lamp", "river", "table", "don't", "123", "unsunny"]
WORDS += ["calmly", "좋아요", "영화"]
MARKS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]


def wordpiece() -> Tokenizer:
    """A tokenizer like BERT's."""
    letters = sorted(set("".join(WORDS)))
    table = list(dict.fromkeys([*MARKS, *letters, *(f"##{letter}" for letter in letters), *WORDS[:10], ".", "!"]))
    tokenizer = Tokenizer(models.WordPiece({token: number for number, token in enumerate(table)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(tokenizer)


def bpe() -> Tokenizer:
    """A tokenizer like RoBERTa's: pieces of bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return _finished(tokenizer)


def unigram() -> Tokenizer:
    """A tokenizer like XLM-R's: the most probable pieces of a word; a run of spaces becomes one space."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=MARKS, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    return _finished(tokenizer)


KINDS = {"wordpiece": wordpiece, "bpe": bpe, "unigram": unigram}


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(MARKS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer
