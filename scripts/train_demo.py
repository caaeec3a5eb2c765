"""Train the demo network on scikit-learn's digits and write src/convspectra/demo/digits.onnx.

    python scripts/train_demo.py

Under a minute on two cores. Needs the `test` extra. The file is written only if onnxruntime gives
the same outputs as PyTorch; the same machine and versions give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

TARGET = Path(__file__).parents[1] / "src" / "convspectra" / "demo" / "digits.onnx"


def normed(*arguments: int, **options: int) -> nn.Sequential:
    """A convolution and its batch norm."""
    convolution = nn.Conv2d(*arguments, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


class Network(nn.Module):
    """A small residual network with every kind of convolution that a report should show."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = normed(1, 16, 3, padding=1)
        self.block1_first = normed(16, 16, 3, padding=1)
        self.block1_second = normed(16, 16, 3, padding=1)
        self.down = normed(16, 32, 3, stride=2, padding=1)
        self.depthwise = normed(32, 32, 3, padding=1, groups=32)
        self.pointwise = normed(32, 32, 1)
        self.dilated = normed(32, 32, 3, padding=2, dilation=2)
        self.block2_first = normed(32, 32, 3, padding=1)
        self.block2_second = normed(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.block1_second(torch.relu(self.block1_first(x))))
        x = torch.relu(self.down(x))
        x = torch.relu(self.pointwise(torch.relu(self.depthwise(x))))
        x = torch.relu(self.dilated(x))
        x = torch.relu(x + self.block2_second(torch.relu(self.block2_first(x))))
        return self.head(x.mean(dim=(2, 3)))


def data() -> list[torch.Tensor]:
    """Training and test images, scaled to [0, 1], and labels."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    parts = train_test_split(images, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    return [torch.from_numpy(part) for part in parts]


def train(network: Network, images: torch.Tensor, labels: torch.Tensor, epochs: int = 40) -> None:
    """Adam with a cosine schedule and random shifts by a pixel."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            shift = tuple(int(s) for s in torch.randint(-1, 2, (2,)))
            shifted = torch.roll(images[batch], shift, dims=(2, 3))
            loss = nn.functional.cross_entropy(network(shifted), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


class Graph:
    """An ONNX graph, written node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        self.weights.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name

    def normed(self, module: nn.Sequential, x: str, name: str) -> str:
        convolution, norm = module
        weight = self.weight(f"{name}.conv.weight", convolution.weight)
        pads = [*convolution.padding, *convolution.padding]
        options = {
            "strides": convolution.stride,
            "dilations": convolution.dilation,
            "group": convolution.groups,
        }
        y = self.add("Conv", [x, weight], f"{name}.conv", pads=pads, **options)
        states = {"scale": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        inputs = [self.weight(f"{name}.norm.{key}", value) for key, value in states.items()]
        return self.add("BatchNormalization", [y, *inputs], f"{name}.norm", epsilon=norm.eps)


def export(network: Network) -> bytes:
    """The network as ONNX, batch norms kept as nodes of their own."""
    graph = Graph()

    def layer(x: str, name: str) -> str:
        return graph.normed(getattr(network, name), x, name)

    def relu(x: str) -> str:
        return graph.add("Relu", [x], f"{x}.relu")

    def residual(x: str, name: str) -> str:
        inner = layer(relu(layer(x, f"{name}_first")), f"{name}_second")
        return relu(graph.add("Add", [x, inner], f"{name}.sum"))

    x = residual(relu(layer("image", "stem")), "block1")
    for name in ("down", "depthwise", "pointwise", "dilated"):
        x = relu(layer(x, name))
    x = residual(x, "block2")
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x], "pool")], "flat")
    head = [graph.weight("head.weight", network.head.weight), graph.weight("head.bias", network.head.bias)]
    graph.add("Gemm", [x, *head], "digit", transB=1)
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        "digits",
        [value("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [value("digit", TensorProto.FLOAT, ["batch", 10])],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], producer_name="convspectra")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def main() -> None:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    network = Network()
    train_images, test_images, train_labels, test_labels = data()
    train(network, train_images, train_labels)
    network.eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:  # half of whose bits the package need not carry
                weight.copy_(weight.bfloat16())
        outputs = network(test_images)
    accuracy = (outputs.argmax(1) == test_labels).float().mean().item()
    model = export(network)
    (again,) = onnxruntime.InferenceSession(model).run(None, {"image": test_images.numpy()})
    np.testing.assert_allclose(again, outputs.numpy(), atol=1e-4)
    partial = TARGET.with_suffix(".partial")
    partial.write_bytes(model)
    partial.replace(TARGET)
    print(f"{TARGET.name}: {len(model)} bytes, {accuracy:.2%} of {len(test_labels)} test digits right")


if __name__ == "__main__":
    main()
