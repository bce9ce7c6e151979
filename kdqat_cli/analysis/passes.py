"""Runs a teacher and other models once over the same batches, for all measures."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdqat_cli.analysis.catalogue import MEASURES
from kdqat_cli.analysis.measure import Measure, Pair, Seen
from kdqat_cli.distillation.objective import model_inputs
from kdqat_cli.networks.captures import Captures, capture
from kdqat_cli.networks.modules import family_of
from kdqat_cli.networks.shallower import keep_layers
from kdqat_cli.output import Advance
from kdqat_cli.tasks.kind import Rows

BATCH = 16


def run_measures(pairs: dict[str, Pair], measures: dict[str, dict[str, Measure]], advance: Advance, seed: int) -> None:
    """Runs all models on all batches, and adds every batch to every measure.

    Args:
        pairs: name of a model → its pair; all have the same teacher and rows.
        measures: name of a model → name of a measure → the measure of that pair.
        advance: called after every batch.
        seed: seed of the order of the batches.
    """
    first = next(iter(pairs.values()))
    wanted = frozenset().union(*(MEASURES[name].captures for own in measures.values() for name in own))
    attends = any(pair.layers is not None for pair in pairs.values())
    batches = list(_batches(first.rows, seed))
    for number, numbers in enumerate(batches):
        batch = _collated(first.rows, numbers, first.teacher.device)
        groups = first.rows.token_groups(batch)
        taught, teacher_logits = _passed(first.teacher, batch, wanted if attends else frozenset())
        for name, pair in pairs.items():
            if pair.model is pair.teacher:
                seen, logits = taught, teacher_logits
            else:
                seen, logits = _passed(pair.model, batch, wanted if pair.layers is not None else frozenset())
            followed = _followed(taught, pair)
            places = [first.chosen[number] for number in numbers]
            both = Seen(places, batch, groups, followed, seen, teacher_logits, logits)
            with torch.no_grad():
                for measure in measures[name].values():
                    measure.add(both)
        advance(number + 1, len(batches), "")


@torch.no_grad()
def maps_of(model: PreTrainedModel, rows: Rows, number: int) -> tuple[list[Tensor], Tensor]:
    """The attention scores (1, H, L, L) of each layer on one row, and the mask (1, L) of the row."""
    batch = _collated(rows, [number], model.device)
    seen, _ = _passed(model, batch, frozenset({"scores"}))
    return seen.scores, batch["counted"].bool()


def spread(count: int, of: int) -> list[int]:
    """The numbers of `count` rows, or of all, evenly spread over `of` rows."""
    return sorted({int(place) for place in np.linspace(0, of - 1, min(count, of)).round()})


def _batches(rows: Rows, seed: int) -> Iterator[list[int]]:
    """Batches of rows of similar length, in a random order, so that the first batches have different lengths."""
    lengths = rows.lengths
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for place in np.random.default_rng(seed).permutation(len(batches)):
        yield batches[place]


def _collated(rows: Rows, numbers: list[int], device: torch.device) -> dict[str, Tensor]:
    put_together: Callable[..., dict[str, Tensor]] = rows.collate("longest")
    examples = rows.examples  # read once, because rows of texts make this list anew at each call
    batch = put_together([examples[number] for number in numbers])
    return {name: values.to(device) for name, values in batch.items()}


@torch.no_grad()
def _passed(model: PreTrainedModel, batch: dict[str, Tensor], wanted: frozenset[str]) -> tuple[Captures, Tensor]:
    with capture(model, wanted) as seen:
        logits = model(**model_inputs(batch)).logits
    return seen, logits


def _followed(taught: Captures, pair: Pair) -> Captures:
    """The captures of the teacher's layers that the model's layers follow."""
    if pair.layers is None:
        return Captures()
    kept = Captures(**{name: list(getattr(taught, name)) for name in Captures.__dataclass_fields__})
    keep_layers(kept, pair.layers, family_of(pair.teacher).pre_norm)
    return kept
