"""The configuration class that transformers' AutoConfig gives for a packed folder. Does not import torch."""

from transformers import PretrainedConfig

MODEL_TYPE = "kdqat"


class KdqatConfig(PretrainedConfig):  # type: ignore[misc]
    """The config.json of a packed folder.

    The configuration of the encoder is inside the packed file, protected by its digest. This one only makes
    transformers load that file. It has its own model type, so that a transformers without kdqat refuses the folder
    instead of using random weights.
    """

    model_type = MODEL_TYPE
