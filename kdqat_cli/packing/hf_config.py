"""What transformers' AutoConfig makes of a packed folder. No torch here."""

from transformers import PretrainedConfig

MODEL_TYPE = "kdqat"


class KdqatConfig(PretrainedConfig):  # type: ignore[misc]
    """config.json of a packed folder.

    The encoder's own configuration is inside the packed file, under its digest; this one only leads to it. It has a
    model type of its own so that a transformers without kdqat refuses the folder instead of starting it from random
    weights.
    """

    model_type = MODEL_TYPE
