"""What the bar of a training run shows."""

from jaxml.training import progress_bar


def test_the_bar_shows_steps_loss_and_rate(capsys):
    with progress_bar("training", 25) as progress:
        progress(10, 3.25, 100.0)
        progress(25, 0.125, 12.5)
    shown = capsys.readouterr().out
    assert "training" in shown and "25/25" in shown
    assert "loss 0.125  12.5 steps/s" in shown
