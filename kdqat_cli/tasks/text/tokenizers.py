"""Tokenizers, loaded from files that are there and fitted to their encoder.

A tokenizer and an encoder are saved side by side, but nothing makes them agree. What is settled here holds for every
stage: which inputs the encoder is given, how many tokens a row may have, that padding is on the right and masked (an
answer must not depend on batch mates), and that every token has an embedding.
"""

import logging

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from kdqat_cli.errors import ConfigError, MissingInputError
from kdqat_cli.hub import first_line
from kdqat_cli.networks.families import configured
from kdqat_cli.networks.loading import Source
from kdqat_cli.record import Inputs
from kdqat_cli.tasks.text.reader import TOKENIZER_FILE

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 20  # words that are tried
_SHORTEST = 3  # tokens of a row: one word between the two that every row has


def load_tokenizer(source: Source, config: PreTrainedConfig, inputs: Inputs | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Args:
        source: where the model lies.
        config: the model's configuration.
        inputs: what was recorded of a model of ours; None: what the tokenizer itself says.

    Raises:
        ConfigError: the encoder is too small for the tokenizer.
        MissingInputError: there are no tokenizer files, they are damaged, or they name no padding token.
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
        raise ConfigError(f"{source.location} reads rows of at most {tokenizer.model_max_length} tokens.")
    return tokenizer


def _load(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer, read from files; without any transformers would make one that knows special tokens alone."""
    fix = f"tokenizer.save_pretrained({source.location!r}), with the tokenizer that the model was trained with"
    with source.reading("the tokenizer of "):
        whole = cached_file(
            source.location,
            TOKENIZER_FILE,
            local_files_only=bool(source.unreachable),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.location, **source.options)
        except Exception as error:
            if whole is not None:
                raise
            reason = first_line(error).rstrip(" :")
            raise MissingInputError(f"{source.location} has no {TOKENIZER_FILE}: {reason}.", fix) from error
    parts = [name for name in tokenizer.vocab_files_names if name != "tokenizer_file"]
    if whole is None and not (parts and all(tokenizer.init_kwargs.get(part) for part in parts)):
        names = " and ".join(tokenizer.vocab_files_names[part] for part in parts)
        either = f"{TOKENIZER_FILE} or {names}" if names else TOKENIZER_FILE
        raise MissingInputError(f"{source.location} has no tokenizer files ({either}).", fix)
    return tokenizer


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, where: str) -> None:
    token, largest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if largest >= config.vocab_size:  # met in a text, such a token ends the command
        raise ConfigError(
            f"The tokenizer of {where} has {largest + 1} tokens (the last is {token!r}), but the encoder has only "
            f"{config.vocab_size} embeddings.",
            f"model.resize_token_embeddings({largest + 1}) and model.save_pretrained({where!r}), before it is trained",
        )


def _remark_on_case(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Tells of capitals that are lost: BERT's tokenizer lower-cases unless its configuration says otherwise."""
    capitals = [token for token in tokenizer.get_vocab() if token.isalpha() and token != token.lower()][:_SAMPLE]
    if capitals and all(tokenizer.tokenize(token) != [token] for token in capitals):
        _LOGGER.warning(
            "The tokenizer of %s makes lower case of texts, but its vocabulary has %r. If the model was trained on "
            'cased text: "do_lower_case": false in its tokenizer_config.json.',
            where,
            capitals[0],
        )


def _give_padding(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, where: str) -> None:
    """Names the padding token where the tokenizer does not, but holds the configuration's as a special token.

    An ordinary token is not taken: a special one is cut out of every text before its words are told apart.
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
    """The inputs in an order of ours. The mask is always one; token types are, where the encoder tells them apart."""
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
