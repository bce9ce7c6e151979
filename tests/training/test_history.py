"""The log of a training, and the criterion for a diverging loss."""

import pytest
import torch

from kdqat_cli.training.history import LossMeans, growth


def test_means_are_over_the_steps_since_the_last_log() -> None:
    means = LossMeans()
    for steps in ([(1.0, 4.0), (2.0, 8.0)], [(7.0, 1.0)]):
        for loss, term in steps:
            means.add({"loss": torch.tensor(loss), "loss_map": torch.tensor(term)})
        losses, terms = (sum(column) / len(steps) for column in zip(*steps, strict=True))
        assert means.take() == {"loss": losses, "loss_map": terms}


def test_a_logged_loss_is_not_changed_by_the_next() -> None:
    means, loss = LossMeans(), torch.tensor(1.0)
    means.add({"loss": loss})
    means.add({"loss": loss})
    assert (means.take(), loss.item()) == ({"loss": 1.0}, 1.0)


@pytest.mark.parametrize(
    ("loss", "first", "grown"), [(9.9, 1, False), (10.1, 1, True), (9.9, 0, False), (15, 2, False), (20.1, 2, True)]
)
def test_a_loss_has_grown_when_it_is_ten_times_the_first(loss: float, first: float, grown: bool) -> None:
    history = [{"step": 1, "loss": first, "loss_a": first / 2, "loss_b": 0.0, "score": 50.0}]
    history += [{"step": 3, "loss": loss, "loss_a": 0.0, "loss_b": loss}]
    said = growth(history)
    assert (said is not None) is grown
    if said:
        assert said.startswith(f"the loss has grown from {first:g} to {loss:g}, its term b from 0 to {loss:g}")


def test_a_single_bad_batch_is_not_a_divergence() -> None:
    """The criterion uses the mean over the steps since the last evaluation: (1·1 + 1·40 + 8·1) / 10 = 4.9."""
    history = [{"step": 1, "loss": 1.0, "loss_a": 1.0}, {"step": 2, "loss": 40.0, "loss_a": 40.0}]
    assert growth([*history, {"step": 10, "loss": 1.0, "loss_a": 1.0}]) is None
    assert growth(history) is not None
