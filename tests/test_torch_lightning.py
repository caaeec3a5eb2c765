"""The Lightning callback: once an optimizer step, with the trainer it is for where that is installed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from convspectra.torch import lightning as adapter  # noqa: E402


class Logger:
    def __init__(self):
        self.seen = {}

    def log_metrics(self, metrics, step):
        self.seen[step] = metrics


def drive(callback, steps):
    """The hooks in the order in which Lightning calls them."""
    model = nn.Conv2d(2, 2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleNamespace(optimizers=[optimizer], loggers=[Logger()])
    callback.on_fit_start(trainer, model)
    model(torch.zeros(1, 2, 6, 6))  # the sanity check
    callback.on_train_start(trainer, model)
    for _ in range(steps):
        model(torch.ones(1, 2, 6, 6)).sum().backward()
        optimizer.step()
    callback.on_train_end(trainer, model)
    return model, trainer


def test_what_the_callback_does_without_lightning():
    callback = adapter._ClipsAfterSteps(max_norm=0.1, every=2, method="rescale", log_norms=True)
    assert callback.state_dict() == {}
    model, trainer = drive(callback, 5)
    assert callback.clip.steps == 5
    assert list(trainer.loggers[0].seen) == [2, 4, 5]  # at the end of the training once more
    assert callback.clip.report()[0].norm <= 0.1
    assert trainer.loggers[0].seen[4]["spectral_norm/"] <= 0.1
    assert not model._forward_pre_hooks
    resumed = adapter._ClipsAfterSteps(max_norm=0.1, every=2, method="rescale")
    resumed.load_state_dict(callback.state_dict())
    drive(resumed, 2)
    assert resumed.clip.steps == 7


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'Callback'"):
        _ = adapter.Callback


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_a_trainer_acts_once_an_optimizer_step(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 1))

        def training_step(self, batch, _):
            return self.net(batch[0]).square().mean()

        validation_step = training_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(callback, epochs, checkpoint=None):
        data = torch.utils.data.TensorDataset(torch.randn(8, 2, 6, 6))
        loader = torch.utils.data.DataLoader(data, batch_size=1)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accumulate_grad_batches=4,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            enable_checkpointing=False,
        )
        trainer.fit(Module(), loader, loader, ckpt_path=checkpoint)
        return trainer

    callback = adapter.SpectralClipCallback(max_norm=0.1, method="rescale")
    trainer = fit(callback, 2)
    assert callback.clip.steps == 4  # of 16 micro-batches
    assert [record.name for record in callback.clip.report()] == ["net.0", "net.2"]
    assert all(record.norm <= 0.1 for record in callback.clip.report())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = adapter.SpectralClipCallback(max_norm=0.1, method="rescale")
    fit(resumed, 3, tmp_path / "last.ckpt")
    assert resumed.clip.steps == 6
