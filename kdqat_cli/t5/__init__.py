"""A classifier on T5's encoder alone, which transformers does not have."""

# Whatever of T5 is imported loads transformers' auto classes, and those, through kdqat_cli's hook, this package: its
# modules must not stand half imported then.
import transformers.models.auto.modeling_auto  # noqa: F401
