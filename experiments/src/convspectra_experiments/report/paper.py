"""What the paper says of each experiment: Sedghi, Gupta and Long (2019), sections 4 and appendices B, C."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """One experiment as the paper tells it.

    Attributes:
        title: of its section.
        found: sentences, the paper's numbers in them.
        settings: what it was run with; what it does not say is "not stated" or missing.
        errors: the paper's test error of a group, by the label of its control.
    """

    title: str
    found: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)


_NETWORK = "32-layer residual network, batch norm"
_CIFAR = {
    "data": "CIFAR-10",
    "network": _NETWORK,
    "parameters": "2.4 million",
    "epochs": "250",
    "learning rate": "a schedule found by grid search, not stated",
    "control": "clip at 0.1 to 3.0 every 100 steps, or none",
    "seeds": "not stated",
    "machine": "not stated",
}
_SWEEP = {
    "data": "CIFAR-10",
    "epochs": "100",
    "batch": "32, 64",
    "decay": "0.95",
    "epochs per decay": "1, 2, 3",
    "control": "clip at 0.5, 1.0, 1.5, 2.0, or none",
    "combinations": "150",
    "machine": "not stated",
}
_MODEL = {
    "model": "the official ResNet v2 released with TensorFlow, pretrained; its data are not stated",
    "layers": "those with kernels larger than 1x1",
}

PAPER: Mapping[str, Told] = {
    "figure1": Told(
        "Figure 1: time to compute all singular values",
        (
            "3x3 convolutions on 16x16 images with up to about 1000 channels, and 11x11 on 64x64 with up to "
            "about 256. The matrix of the whole operator takes orders of magnitude longer than the two lines "
            "of NumPy, and was not tried on the larger layer.",
            "For small layers NumPy is faster than TensorFlow; for large ones TensorFlow on a GPU is much "
            "faster.",
        ),
        {
            "layers": "3x3 on 16x16; 11x11 on 64x64",
            "values": "random standard normal",
            "machine": "not stated; TensorFlow on a GPU",
        },
    ),
    "figure2": Told(
        "Figure 2: training with clipped norms",
        (
            "Test error 6.2 % without clipping, 5.3 % clipped to 0.5, 5.5 % to 1.0, and 6.7 % to 0.1.",
            "Clipping to 2.5 and 3.0 had little impact: without clipping the norms of the layers were "
            "between 2.5 and 2.8.",
        ),
        _CIFAR,
        {
            "no clipping": "6.2 %",
            "clip 0.1": "6.7 %",
            "clip 0.5": "5.3 %",
            "clip 1": "5.5 %",
            "clip 2.5": "little impact",
            "clip 3": "little impact",
        },
    ),
    "figure3a": Told(
        "Figure 3a: robustness without batch norm",
        (
            "Clipping improved the best result, and made the process more robust to the choice of "
            "hyperparameters.",
        ),
        {
            **_SWEEP,
            "network": "the 32-layer residual network without batch norm",
            "learning rate": "0.001, 0.003, 0.01, 0.03, 0.1",
        },
    ),
    "figure3b": Told(
        "Figure 3b: robustness with batch norm",
        ("Clipping helps with batch norm too: the two are not redundant, and neither dominates the other.",),
        {**_SWEEP, "network": _NETWORK, "learning rate": "0.01, 0.03, 0.1, 0.2, 0.3"},
    ),
    "figure4": Told(
        "Figure 4: test error against training time",
        ("The projections, every 100 steps, did not slow down training very much.",),
        _CIFAR,
    ),
    "section44": Told(
        "Section 4.4: clipping the reshaped kernel instead",
        (
            "The reshaped kernel clipped every 100 steps to 0.05, 0.1, 0.2, 0.5 or 1.0: the best accuracy, "
            "at 0.2, was the same as that of section 4.2. Clipped every step, the best was slightly worse; "
            "so it was with the exact clip.",
            "10,000 batches clipped every step on one machine with a GPU took 14,490 s reshaped and 11,004 s "
            "exact.",
        ),
        {**_CIFAR, "control": "clip, reshaped; every 100 steps, every step", "machine": "a GPU"},
    ),
    "figure5": Told(
        "Figure 5: singular values of a pretrained network",
        (
            "The largest norms are those of layers closest to the input. Most of the layers have at least "
            "10,000 singular values that are at least 1.",
        ),
        _MODEL,
    ),
    "figure6": Told(
        "Figure 6: ratio to the largest",
        ("The effective rank is larger closer to the input.",),
        _MODEL,
    ),
    "figure7": Told(
        "Figure 7: ratio to the largest, normalised rank",
        ("As figure 6, with the rank divided by the number of singular values.",),
        _MODEL,
    ),
    "boundary": Told(
        "Layers beside the torus: padded boundaries and wrapped ones",
        ("Not in the paper, whose singular values are those of the layer with its boundary wrapped around.",),
    ),
    "beyond": Told("Beyond the paper: other ways to control a layer", ("Not in the paper.",)),
    "variations": Told(
        "Figure 2 varied: weight decay, precision, size of the network",
        ("Not in the paper, which names no weight decay; the errors of its network are those of figure 2.",),
    ),
}
