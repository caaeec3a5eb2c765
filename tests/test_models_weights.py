"""Bare weights: safetensors, PyTorch checkpoints, TensorFlow bundles, geometry files, neighbours."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct

import numpy as np
import pytest

from convspectra import InputError, ModelError
from convspectra.models import read_model, weights
from convspectra.models.formats.tensorflow import reader as tensorflow

RNG = np.random.default_rng(0)


def state(**shapes):
    return {
        name.replace("__", "."): RNG.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def safetensors_file(path, tensors):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file(tensors, path)
    return path


PLAIN = {
    "stem__weight": (8, 3, 3, 3),
    "stem__bias": (8,),
    "norm__weight": (8,),
    "norm__running_var": (8,),
    "depthwise__weight": (8, 1, 3, 3),
    "audio__weight": (4, 2, 5),
    "head__weight": (10, 8),
    "token_embedding__weight": (100, 8),
    "cell__weight_ih": (12, 8),
}


def test_what_is_a_kernel_and_what_is_not(tmp_path):
    model = read_model(safetensors_file(tmp_path / "w.safetensors", state(**PLAIN)), sample_shape=(3, 16, 12))
    found = {layer.name: layer for layer in model.layers}
    assert set(found) == {"stem", "depthwise", "audio", "head"}
    assert found["stem"].geometry.input_shape == (16, 12)
    assert found["stem"].geometry.padding == "same"
    assert found["depthwise"].geometry.groups == 8
    assert "stride" in found["stem"].assumed
    assert found["audio"].geometry is None
    assert "2 spatial axes and this kernel 1" in found["audio"].reason
    assert found["head"].assumed == ()
    assert found["head"].kernel.shape == (10, 8, 1)
    assert model.other == {"bias": 1, "scale": 1, "batch norm": 1, "embedding": 1}
    assert [(one.name, one.shape) for one in model.unread] == [("cell.weight_ih", (12, 8))]
    assert any("batch norm" in note for note in model.notes)


def test_without_a_size_nothing_is_guessed(tmp_path):
    model = read_model(safetensors_file(tmp_path / "w.safetensors", state(stem__weight=(8, 3, 3, 3))))
    assert model.layers[0].geometry is None
    assert model.layers[0].reason == weights.NO_SIZE


def test_order_of_safetensors_is_that_of_the_file(tmp_path):
    names = [f"layer{i}.weight" for i in range(20)]
    path = safetensors_file(tmp_path / "w.safetensors", {n: np.ones((2, 2, 3), np.float32) for n in names})
    orders = {tuple(layer.name for layer in read_model(path).layers) for _ in range(5)}
    assert len(orders) == 1


def test_bfloat16_tensors_become_float32(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    kernel = torch.tensor(RNG.standard_normal((4, 3, 3, 3))).to(torch.bfloat16)
    save_file({"a.weight": kernel}, tmp_path / "w.safetensors")
    (layer,) = read_model(tmp_path / "w.safetensors").layers
    np.testing.assert_array_equal(layer.kernel, kernel.float().numpy())


@pytest.mark.parametrize(
    "content", [b"\xff" * 40, struct.pack("<Q", 10) + b'{"a": 1}  ', b'\x10\0\0\0\0\0\0\0{"']
)
def test_damaged_safetensors_are_refused(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.safetensors"):
        read_model(path)


# ---- PyTorch checkpoints


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}},
        lambda s: {"epoch": 1, "ema": {"shadow": s}},
        lambda s: {"model_state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    ],
)
def test_state_dicts_are_found_wherever_they_lie(wrap, legacy, tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state(**PLAIN).items()}
    path = tmp_path / "w.pth"
    torch.save(wrap(tensors), path, _use_new_zipfile_serialization=not legacy)
    model = read_model(path)
    assert model.format == "pytorch"
    assert {layer.name for layer in model.layers} == {"stem", "depthwise", "audio", "head"}


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [None, 4])
def test_code_in_a_pickle_is_named_and_never_runs(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    path, target = tmp_path / "evil.pt", tmp_path / "ran"
    if protocol is None:
        torch.save({"state_dict": Payload(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Payload(target)}, protocol=protocol))
    with pytest.raises(ModelError, match=r"holds code \(posix\.system\) and was not run"):
        read_model(path)
    assert not target.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Conv2d(3, 4, 3), tmp_path / "module.pt")
    with pytest.raises(ModelError, match=r"Conv2d.*save model\.state_dict\(\) instead"):
        read_model(tmp_path / "module.pt")


def test_damaged_checkpoints_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"a.weight": torch.ones(4, 3, 3, 3)}, path)
    whole = path.read_bytes()
    for cut in (10, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"w\.pth"):
            read_model(path)
    path.write_text("hello")
    with pytest.raises(ModelError, match=r"is damaged: its bytes are no pickle's$"):
        read_model(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(ModelError, match="no state dict"):
        read_model(path)


@pytest.mark.parametrize("kind", ["old", "new"])
def test_weight_norm_and_spectral_norm_are_what_the_module_applies(kind, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3)
    transposed = torch.nn.ConvTranspose2d(3, 4, 3)
    normed = torch.nn.Conv2d(3, 4, 3)
    if kind == "new":
        utils = torch.nn.utils.parametrizations
        utils.weight_norm(convolution)
    else:
        utils = torch.nn.utils
        with pytest.warns(FutureWarning, match="weight_norm"):
            utils.weight_norm(convolution)
    utils.spectral_norm(normed)
    utils.spectral_norm(transposed)
    module = torch.nn.ModuleDict({"w": convolution, "s": normed, "t": transposed})
    with torch.no_grad():
        for _ in range(20):  # in training mode each is one power step on the stored vectors
            normed(torch.zeros(1, 3, 5, 5)), transposed(torch.zeros(1, 3, 5, 5))
        module.eval()
        normed(torch.zeros(1, 3, 5, 5)), transposed(torch.zeros(1, 3, 5, 5))
    path = tmp_path / "w.pth"
    torch.save(module.state_dict(), path)
    found = {layer.name: layer.kernel for layer in read_model(path).layers}
    assert set(found) == {"w", "s", "t"}
    for name, part in module.items():
        np.testing.assert_allclose(found[name], part.weight.detach().numpy(), rtol=1e-5, atol=1e-7)


# ---- geometry files and neighbours


def with_geometry(tmp_path, text, shapes=None, **options):
    path = safetensors_file(tmp_path / "w.safetensors", state(**(shapes or {"a__weight": (4, 3, 3, 3)})))
    geometry = tmp_path / "geometry.toml"
    geometry.write_text(text)
    return read_model(path, geometry=geometry, **options)


def test_a_geometry_file_says_what_the_weights_do_not(tmp_path):
    text = """
    sample_shape = [3, 32, 32]
    [layers."*"]
    padding = 1
    [layers.down]
    stride = 2
    padding = [[0, 1], [0, 1]]
    input_shape = [16, 16]
    [layers.up]
    transposed = true
    stride = 2
    """
    shapes = {"a__weight": (4, 3, 3, 3), "down__weight": (8, 4, 3, 3), "up__weight": (8, 4, 2, 2)}
    found = {layer.name: layer for layer in with_geometry(tmp_path, text, shapes).layers}
    assert found["a"].geometry.input_shape == (32, 32)
    assert found["a"].geometry.padding == ((1, 1), (1, 1))
    assert "padding" not in found["a"].assumed
    assert "stride" in found["a"].assumed
    assert found["down"].geometry.stride == (2, 2)
    assert found["down"].geometry.padding == ((0, 1), (0, 1))
    assert not {"stride", "padding", "input_shape"} & set(found["down"].assumed)
    assert (found["up"].kind, found["up"].layout) == ("conv_transpose2d", "IOHW")
    assert found["up"].geometry.correlation(found["up"].kernel.shape).out_channels == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[layers."b"]\nstride = 2', "no layer is called 'b'; near it are 'a'"),
        ('[layers."a"]\nstrides = 2', "no field 'strides'"),
        ('[layers."a"]\ninput_shape = [8, 8]\nstride = 0', "stride must be at least 1"),
        ('[layers."a"]\ninput_shape = [8, 8]\nstride = "two"', "stride must be an integer"),
        ('[layers."a"]\ninput_shape = [2, 2]\npadding = "valid"', "no output point"),
        ('[layers."a"]\ninput_shape = [8]', "'input_shape' must be sizes alone, 2 for this kernel"),
        ('[layers."a"]\ninput_shape = [3, 8, 8]', r"without channels; got \[3, 8, 8\]"),
        ('[layers."a"]\ninput_shape = [0, 8]', "input_shape must be at least 1"),
        ("layer = 3", "expected 'sample_shape' and"),
        ("sample_shape = [3, -1, 8]", "'sample_shape' must be a list"),
        ("not toml at all", "not a TOML file"),
        ("[layers]\na = 3", "must be a table"),
    ],
)
def test_mistakes_in_a_geometry_file_are_named(text, words, tmp_path):
    with pytest.raises(InputError, match=words) as error:
        with_geometry(tmp_path, text)
    assert "geometry.toml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("input_shape", "read"),
    [
        ((5, 8, 8), "channels 5, sizes 8x8"),
        ((8, 8, 3), "channels 8, sizes 8x3"),
        ((1, 8, 8), "channels 1, sizes 8x8"),
        ((3, 8, 8), None),
        ((3, 8, 2), None),
    ],
)
def test_channels_that_no_layer_takes_or_that_come_last_are_noted(input_shape, read, tmp_path):
    path = tmp_path / "weights.pt"
    torch = pytest.importorskip("torch")
    torch.save({"first.weight": torch.ones(8, 3, 3, 3), "second.weight": torch.ones(8, 8, 3, 3)}, path)
    noted = [note for note in read_model(path, sample_shape=input_shape).notes if "channels" in note]
    assert len(noted) == (read is not None)
    assert all(f"is read as {read}" in note and "'first' is 8x3x3x3 (OIHW)" in note for note in noted)


def test_a_neighbour_of_the_same_stem_is_found_and_named(tmp_path):
    path = safetensors_file(tmp_path / "net.safetensors", state(a__weight=(4, 3, 3, 3)))
    (tmp_path / "net.toml").write_text("[layers.a]\ninput_shape = [9, 9]\nstride = 3\n")
    model = read_model(path)
    assert model.layers[0].geometry.stride == (3, 3)
    assert model.layers[0].source == "geometry file net.toml"
    assert any("net.toml" in note for note in model.notes)


def test_a_graph_next_door_gives_geometry_to_identical_kernels_only(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensors = state(a__weight=(4, 3, 3, 3), b__weight=(4, 3, 3, 3))
    path = safetensors_file(tmp_path / "net.safetensors", tensors)
    make = onnx.helper
    weight = onnx.numpy_helper.from_array(tensors["a.weight"], "other.weight")
    graph = make.make_graph(
        [make.make_node("Conv", ["x", "other.weight"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
        "g",
        [make.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [make.make_tensor_value_info("y", 1, None)],
        [weight],
    )
    onnx.save(make.make_model(graph), tmp_path / "net.onnx")
    found = {layer.name: layer for layer in read_model(path).layers}
    assert found["a"].geometry.stride == (2, 2)
    assert found["a"].assumed == ()
    assert found["b"].geometry is None
    (tmp_path / "net.onnx").write_bytes(b"broken")
    model = read_model(path)
    assert model.layers[0].geometry is None
    assert any("cannot be read" in note for note in model.notes)


def test_parts_of_low_rank_adapters_are_noted(tmp_path):
    parts = {
        "fc.base_layer": (6, 5),
        "fc.lora_A.default": (2, 5),
        "fc.lora_B.default": (6, 2),
        "lora_scale": (3, 3),
    }
    tensors = {f"{name}.weight": state(a=shape)["a"] for name, shape in parts.items()}
    model = read_model(safetensors_file(tmp_path / "m.safetensors", tensors))
    assert {layer.name for layer in model.layers} == set(parts)
    (note,) = [note for note in model.notes if "LoRA" in note]
    assert "'fc.lora_A.default', 'fc.lora_B.default';" in note


# ---- TensorFlow bundles


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def bundle(folder, variables):
    """Write a checkpoint as TensorFlow lays it out: one data block, one index block, no compression."""

    def block(pairs):
        body = b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
        return body + struct.pack("<II", 0, 1)

    data, entries = b"", [(b"", b"\x08\x01")]
    for name, array in sorted(variables.items()):
        dims = b"".join(b"\x12" + varint(len(d)) + d for d in (b"\x08" + varint(n) for n in array.shape))
        value = b"\x08" + varint({"f4": 1, "i1": 6}[array.dtype.str[1:]]) + b"\x12" + varint(len(dims)) + dims
        value += b"\x20" + varint(len(data)) + b"\x28" + varint(array.nbytes)
        entries.append((name.encode(), value))
        data += array.tobytes()
    first = block(entries)
    handle = varint(0) + varint(len(first))
    second = block([(b"\xff", handle)])
    index = first + b"\0" * 5 + second + b"\0" * 5
    footer = varint(0) + varint(0) + varint(len(first) + 5) + varint(len(second))
    index += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "model.index").write_bytes(index)
    (folder / "model.data-00000-of-00001").write_bytes(data)
    return folder / "model"


def test_integer_variables_of_the_shape_of_kernels_are_named(tmp_path):
    prefix = bundle(
        tmp_path, {"stem/kernel": state(a=(3, 3, 2, 4))["a"], "packed": np.ones((3, 3, 2, 4), "i1")}
    )
    model = tensorflow.read(prefix)
    assert [layer.name for layer in model.layers] == ["stem"]
    (unread,) = model.unread
    assert (unread.name, unread.shape) == ("packed", (3, 3, 2, 4))
    assert "stored as i1" in unread.reason


def test_a_bundle_gives_kernels_in_their_layout(tmp_path):
    tensors = state(stem__kernel=(3, 3, 2, 4), head__kernel=(8, 10), stem__bias=(4,))
    variables = {name.replace(".", "/"): array for name, array in tensors.items()}
    variables["stem/kernel/Adam"] = variables["stem/kernel"]
    variables["block/depthwise_kernel/.ATTRIBUTES/VARIABLE_VALUE"] = state(a=(3, 3, 4, 2))["a"]
    prefix = bundle(tmp_path, variables)
    for path in (prefix, prefix.with_suffix(".index"), tmp_path, tmp_path / "model.data-00000-of-00001"):
        model = read_model(path, sample_shape=(2, 8, 8))
        found = {layer.name: layer for layer in model.layers}
        assert set(found) == {"stem", "head", "block"}
    np.testing.assert_array_equal(found["stem"].kernel, variables["stem/kernel"])
    assert found["stem"].layout == "HWIO"
    assert found["head"].kernel.shape == (10, 8, 1)
    depthwise = variables["block/depthwise_kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    assert (found["block"].kernel.shape, found["block"].geometry.groups) == ((8, 1, 3, 3), 4)
    for channel, multiplier in np.ndindex(4, 2):
        ours = found["block"].kernel[channel * 2 + multiplier, 0]
        np.testing.assert_array_equal(ours, depthwise[:, :, channel, multiplier])
    assert model.other == {"optimizer slot": 1, "other variable": 1}


def test_damaged_bundles_are_refused(tmp_path):
    prefix = bundle(tmp_path, {"stem/kernel": state(a=(3, 3, 2, 4))["a"]})
    index = prefix.with_suffix(".index")
    whole = index.read_bytes()
    for cut in range(0, len(whole), 7):
        index.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"model"):
            tensorflow.read(prefix)
    for position in range(0, len(whole) - 8, 3):
        spoiled = bytearray(whole)
        spoiled[position] ^= 0x55
        index.write_bytes(spoiled)
        with contextlib.suppress(ModelError):  # anything but a clear refusal or a reading is an error
            tensorflow.read(prefix)
    index.write_bytes(whole)
    data = tmp_path / "model.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(ModelError, match="truncated"):
        tensorflow.read(prefix)
    data.unlink()
    with pytest.raises(ModelError, match="missing"):
        tensorflow.read(prefix)
