"""Loads tokenizers from existing files, and checks that they fit their encoder.

A tokenizer and an encoder are saved side by side, but they need not agree. For every stage, this module makes sure that

- texts are split as tokenizer.json says,
- the encoder gets the inputs that it has,
- a row has at most as many tokens as the encoder can read,
- padding is on the right and masked, so that an answer does not depend on other rows of the batch,
- every token has an embedding.
"""

import json
import logging
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.files import open_file, refuse_unreadable
from kdqat_cli.hub import first_line
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.loading import Source
from kdqat_cli.record import Inputs
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 20  # number of words that are tried
_SHORTEST = 3  # smallest number of tokens of a row: one word between [CLS] and [SEP]
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "model")
"""The parts of tokenizer.json that determine the tokens of a text."""
_BERT_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Setting in tokenizer_config.json → the same in tokenizer.json."""


def load_tokenizer(source: Source, config: PreTrainedConfig, inputs: Inputs | None = None) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model.

    Args:
        source: place of the model.
        config: configuration of the model.
        inputs: the recorded inputs, if kdqat made the model; None: those that the tokenizer itself names.

    Raises:
        ConfigError: the encoder is too small for the tokenizer.
        MissingInputError: the tokenizer files are missing or damaged, contradict each other, name no padding token, or
            do not say whether texts keep their capitals.
    """
    tokenizer = _load(source)
    _check_vocabulary(tokenizer, config, source.location)
    _give_padding(tokenizer, config, source.location)
    _remark_on_case(tokenizer, source.location)
    tokenizer.padding_side = "right"
    if inputs is not None:
        tokenizer.truncation_side = inputs.truncation_side
    tokenizer.model_input_names = _input_names(tokenizer, config, inputs, source.location)
    values = config.to_dict()
    limit = configured(values).longest_row(values)
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    if tokenizer.model_max_length < _SHORTEST:
        raise ConfigError(
            f"{source.location} reads rows of at most {tokenizer.model_max_length} tokens, too few for a word.",
            "a model with more positions (max_position_embeddings, model_max_length)",
        )
    return tokenizer


def _load(source: Source) -> PreTrainedTokenizerBase:
    """Reads the tokenizer from files; without files, transformers would make a tokenizer of only special tokens."""
    fix = (
        f"AutoTokenizer.from_pretrained(ENCODER).save_pretrained({source.location!r}), with the ENCODER that the model "
        "was trained from"
    )
    with source.reading("the tokenizer of "):
        whole = cached_file(
            source.location,
            TOKENIZER_FILE,
            local_files_only=bool(source.unreachable),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        pipeline = None if whole is None else _read(whole, fix)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.location, **source.options)
        except Exception as error:
            if whole is not None:
                raise
            refuse_unreadable(Path(source.location))
            raise MissingInputError(f"{source.location} has no {TOKENIZER_FILE}{_why(error)}.", fix) from error
        if pipeline is not None:
            return _as_written(tokenizer, pipeline, source)
    parts = [name for name in tokenizer.vocab_files_names if name != "tokenizer_file"]
    names = " and ".join(tokenizer.vocab_files_names[part] for part in parts)
    if not (parts and all(tokenizer.init_kwargs.get(part) for part in parts)):
        either = f"{TOKENIZER_FILE} or {names}" if names else TOKENIZER_FILE
        raise MissingInputError(f"{source.location} has no tokenizer files ({either}).", fix)
    for part in parts:
        open_file(Path(tokenizer.init_kwargs[part])).close()  # a pointer of Git LFS would be read as a list of words
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise MissingInputError(f"{source.location} has no {TOKENIZER_FILE}, and {kind} cannot make one.", fix)
    _require_case(tokenizer, source, names)
    return tokenizer


def _read(path: str, fix: str) -> Tokenizer:
    """The tokenizer that tokenizer.json describes."""
    open_file(Path(path)).close()
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # tokenizers raises nothing more special
        raise MissingInputError(
            f"The tokenizer of {Path(path).parent} could not be loaded: {TOKENIZER_FILE} is damaged, or written by a "
            f"later version of tokenizers ({first_line(error)}).",
            fix,
        ) from error


def _why(error: Exception) -> str:
    """The reason that transformers gives, unless it is a list of ways to build a tokenizer, which names no file."""
    reason = first_line(error).rstrip(" :")
    return "" if reason.startswith("Couldn't instantiate") else f": {reason}"


def _as_written(tokenizer: PreTrainedTokenizerBase, written: Tokenizer, source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer that splits texts as its tokenizer.json says.

    The classes of transformers take only the vocabulary from the file and build the rest again. Unless the tokenizer's
    configuration says otherwise, BERT's class lower-cases texts, even if the file does not.

    Raises:
        MissingInputError: the tokenizer's configuration contradicts the file.
    """
    if tokenizer.is_fast and all(_same(tokenizer, written, part) for part in _PARTS):
        return tokenizer
    state = {} if written.normalizer is None else json.loads(written.normalizer.__getstate__())
    config = _told(source)
    for option, setting in _BERT_NORMALIZER.items():
        told, own = config.get(option), state.get(setting)
        if isinstance(told, bool) and isinstance(own, bool) and told != own:
            raise MissingInputError(
                f"{source.location} contradicts itself: tokenizer_config.json has {option} {json.dumps(told)}, but "
                f"{TOKENIZER_FILE} has {setting} {json.dumps(own)}.",
                "the same value in both files: the one that the model was trained with",
            )
    return PreTrainedTokenizerFast.from_pretrained(
        source.location,
        **source.options,
        **tokenizer.special_tokens_map,
        model_input_names=tokenizer.model_input_names,
        model_max_length=tokenizer.model_max_length,
    )


def _same(tokenizer: PreTrainedTokenizerBase, written: Tokenizer, part: str) -> bool:
    one, other = (getattr(each, part) for each in (tokenizer.backend_tokenizer, written))
    return one is other or (None not in (one, other) and one.__getstate__() == other.__getstate__())


def _told(source: Source) -> dict[str, object]:
    """The content of tokenizer_config.json; empty if there is no such file."""
    config: dict[str, object] = get_tokenizer_config(source.location, local_files_only=bool(source.unreachable))
    return config


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, where: str) -> None:
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= config.vocab_size:  # such a token in a text would end the command
        raise ConfigError(
            f"The tokenizer of {where} has {largest + 1} tokens (the last is {token!r}), but the encoder has only "
            f"{config.vocab_size} embeddings.",
            f"model.resize_token_embeddings({largest + 1}) and model.save_pretrained({where!r}), before it is trained",
        )


def _require_case(tokenizer: PreTrainedTokenizerBase, source: Source, names: str) -> None:
    """Refuses to guess whether texts are lower-cased. BERT's class does it even if the vocabulary has capitals."""
    lost = _lost_capital(tokenizer)
    if lost is not None and "do_lower_case" not in _told(source):
        raise MissingInputError(
            f"{source.location} does not say whether texts keep their capitals: {names} has {lost!r}, but no "
            "tokenizer_config.json says do_lower_case.",
            f'{{"do_lower_case": false}} in {source.location}/tokenizer_config.json, if the model was trained on cased '
            "text; true, if not",
        )


def _remark_on_case(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    lost = _lost_capital(tokenizer)
    if lost is not None:
        _LOGGER.warning(
            "The tokenizer of %s makes lower case of texts, as its files say, but its vocabulary has %r.", where, lost
        )


def _lost_capital(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """A word with capitals, if no text can give such a word of the vocabulary; None: there is none, or texts can."""
    capitals = [token for token in tokenizer.get_vocab() if token.isalpha() and token != token.lower()][:_SAMPLE]
    return capitals[0] if capitals and all(tokenizer.tokenize(token) != [token] for token in capitals) else None


def _give_padding(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, where: str) -> None:
    """Sets the padding token if the tokenizer has none but has the configuration's padding token as a special token.

    An ordinary token is not taken, because as a padding token it would be cut out of every text.
    """
    if tokenizer.pad_token is not None:
        return
    known = tokenizer.added_tokens_decoder.get(config.pad_token_id)
    if known is None:
        raise MissingInputError(
            f"The tokenizer of {where} names no padding token.",
            '"pad_token" in its tokenizer_config.json: the one that the model was trained with',
        )
    tokenizer.pad_token = known.content


def _input_names(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, inputs: Inputs | None, where: str
) -> list[str]:
    """The inputs in kdqat's order: ids, mask, and token types if the encoder distinguishes them."""
    given = tokenizer.model_input_names if inputs is None else inputs.names
    values = config.to_dict()
    types = configured(values).type_count(values)
    if "token_type_ids" not in given or types is None or types == 1:
        return ["input_ids", "attention_mask"]
    tokenizer.model_input_names = names = ["input_ids", "token_type_ids", "attention_mask"]
    largest = max(tokenizer("a", "a")["token_type_ids"], default=0)
    if largest >= types:
        raise ConfigError(
            f"The tokenizer of {where} gives the token type {largest}, but the encoder has {types} token types only.",
            '"model_input_names": ["input_ids", "attention_mask"] in tokenizer_config.json, for no token types',
        )
    return names
