"""Exported programs that hold code: none of it runs, whatever the trick."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import warnings
import zipfile

import pytest

from convspectra import InputError
from convspectra.models import read_model
from convspectra.models.graphs import read_graph
from convspectra.network import lipschitz
from convspectra.network.folding import folded

torch = pytest.importorskip("torch")
from convspectra.network.jacobian import Derivative  # noqa: E402  # which imports torch

MODEL = "models/model.json"
CONFIG = "data/weights/model_weights_config.json"
SAMPLE = "data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """A small program's entries by name, without their folder."""
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    module = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.BatchNorm2d(3), torch.nn.ReLU()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.eval(), (torch.zeros(1, 2, 4, 4),)), path)
    with zipfile.ZipFile(path) as archive:
        return [(name.split("/", 1)[1], archive.read(name)) for name in archive.namelist()]


@pytest.fixture
def payload(tmp_path):
    """A checkpoint that makes the file `marker` when it is unpickled."""

    class Marker:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    saved = io.BytesIO()
    torch.save({"x": Marker()}, saved)
    return saved.getvalue(), pickle.dumps(Marker())


def write(path, entries, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in entries:
            archive.writestr(name, data)
    return path


def inside(entries):
    return [(f"a/{name}", data) for name, data in entries]


def read_both(path):
    for read in (read_model, read_graph):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)


def refused(path, words, tmp_path):
    for read in (read_model, read_graph):
        with pytest.raises(InputError, match=words):
            read(path)
    assert not (tmp_path / "marker").exists()


def test_what_was_saved_is_read(entries, tmp_path):
    path = write(tmp_path / "m.pt2", inside(entries))
    assert [layer.name for layer in read_model(path).layers] == ["0"]
    assert [node.operator for node in read_graph(path).nodes] == ["conv2d", "batch_norm", "relu"]


def with_pickle(entries):
    config = json.loads(dict(entries)[CONFIG])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    return json.dumps(config).encode(), "data/weights/" + first["path_name"]


def letter_case(entries, code):
    return [
        (SAMPLE.replace(".pt", ".PT"), code) if name == SAMPLE else (name, data) for name, data in entries
    ]


def beside_in_another_case(entries, code):
    return [*entries, (SAMPLE.upper(), code)]


def config_twice(entries, code):
    config, stored = with_pickle(entries)
    found = [(name, code if name == stored else data) for name, data in entries]
    at = [name for name, _ in found].index(CONFIG)
    return [*found[:at], (CONFIG, config), *found[at:]]


def sample_twice(entries, code):
    return [(SAMPLE, code), *entries]


def pickled_weight(entries, code):
    config, stored = with_pickle(entries)
    return [(name, {CONFIG: config, stored: code}.get(name, data)) for name, data in entries]


def legacy_weights(entries, code):
    return [*entries, ("data/weights/model.pt", code)]


def legacy_constants(entries, code):
    return [*entries, ("data/constants/model.pt", code)]


def custom_object(entries, code):
    return [*entries, ("data/constants/custom_obj_0", code)]


def compiled(entries, code):
    return [*entries, ("data/aotinductor/model/model.so", code)]


def second_program(entries, code):
    return [*entries, ("models/other.json", dict(entries)[MODEL]), ("data/sample_inputs/other.pt", code)]


@pytest.mark.parametrize(
    "trick",
    [
        letter_case,
        beside_in_another_case,
        config_twice,
        sample_twice,
        pickled_weight,
        legacy_weights,
        legacy_constants,
        custom_object,
        compiled,
        second_program,
    ],
)
def test_an_archive_with_other_entries_is_refused(trick, entries, payload, tmp_path):
    refused(write(tmp_path / "m.pt2", inside(trick(entries, payload[0]))), "was not opened", tmp_path)


def test_the_layout_before_2_8_is_refused(entries, payload, tmp_path):
    old = [
        ("version", "8.20"),
        ("a/archive_format", "pt2"),
        ("serialized_exported_program.json", dict(entries)[MODEL]),
        ("serialized_state_dict.json", payload[0]),
        ("serialized_constants.json", payload[0]),
        ("serialized_example_inputs.pt", dict(entries)[SAMPLE]),
    ]
    refused(write(tmp_path / "m.pt2", old), "not opened|2.8 or newer", tmp_path)
    refused(write(tmp_path / "m.pt2", [*inside(entries), *old]), "not opened|2.8 or newer", tmp_path)


def test_a_compressed_archive_is_refused(entries, tmp_path):
    bomb = [*inside(entries), ("a/extra/zeros", b"\0" * 10_000_000)]
    refused(write(tmp_path / "m.pt2", bomb, zipfile.ZIP_DEFLATED), "compressed", tmp_path)


def test_a_marker_in_every_entry_never_runs(entries, payload, tmp_path):
    for code in payload:
        for index, (name, _) in enumerate(entries):
            for changed in (
                [*entries[:index], (name, code), *entries[index + 1 :]],
                [*entries[:index], (name, code), *entries[index:]],
                [*entries, (name, code)],
                [(name.upper(), code), *entries],
            ):
                path = write(tmp_path / "m.pt2", inside(changed))
                with contextlib.suppress(
                    InputError
                ):  # a clear refusal, or a reading without what was planted
                    read_both(path)
                assert not (tmp_path / "marker").exists(), name


def changed(entries, change):
    program = json.loads(dict(entries)[MODEL])
    change(program)
    text = json.dumps(program).encode()
    return inside([(name, text if name == MODEL else data) for name, data in entries])


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.ops.aten.from_file.default", "torch.ops.aten.save.default"]
)
def test_operators_that_are_not_of_tensors_are_refused(target, entries, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0].update(
            target=target,
            inputs=[{"name": "", "arg": {"as_string": f"touch {tmp_path}/marker"}, "kind": 1}],
        )

    refused(write(tmp_path / "m.pt2", changed(entries, change)), "no operator of PyTorch", tmp_path)


def test_an_operator_that_others_have_added_is_one_node_that_is_not_read(entries, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["nodes"][-1]["target"] = "torch.ops.own.relu.default"

    path = write(tmp_path / "m.pt2", changed(entries, change))
    assert [layer.name for layer in read_model(path).layers] == ["0"]
    with pytest.raises(InputError, match="depends on relu 'relu': an operator from outside of PyTorch's own"):
        lipschitz(read_graph(path))


def test_names_that_would_become_source_are_refused(entries, tmp_path):
    name = f"x=open({str(tmp_path / 'marker')!r},'w')"

    def change(program):
        graph = program["graph_module"]["graph"]
        old = graph["inputs"][-1]["as_tensor"]["name"]
        text = json.dumps(program["graph_module"]).replace(json.dumps(old), json.dumps(name))
        program["graph_module"] = json.loads(text)

    refused(write(tmp_path / "m.pt2", changed(entries, change)), "a name of no exported", tmp_path)


@pytest.mark.parametrize(
    "text", ["open('{}', 'w')", "__import__('os').system('touch {}')", "9**9**9**9", "(s0)**9**9"]
)
def test_sizes_that_would_be_evaluated_are_refused(text, entries, tmp_path):
    expression = text.format(tmp_path / "marker")

    def change(program):
        values = program["graph_module"]["graph"]["tensor_values"]
        next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    refused(write(tmp_path / "m.pt2", changed(entries, change)), "a size that is not read", tmp_path)


def test_what_only_describes_is_left_out(entries, tmp_path):
    (tmp_path / "planted.py").write_text("open('marker', 'w')")
    context = {"default_factory_module": "planted", "default_factory_name": "x", "dict_context": []}
    tree = {"type": "collections.defaultdict", "context": json.dumps(context), "children_spec": []}

    def change(program):
        module = program["graph_module"]
        module["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])
        program["guards_code"] = ["open('marker', 'w')"]
        module["graph"]["nodes"][0]["metadata"]["source_fn_stack"] = "a,torch.os.system"

    with contextlib.chdir(tmp_path), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        read_both(write(tmp_path / "m.pt2", changed(entries, change)))
    assert not (tmp_path / "marker").exists()


def test_tensors_larger_than_what_is_there_are_refused(entries, tmp_path):
    for name in ("sizes", "strides", "storage_offset"):
        config = json.loads(dict(entries)[CONFIG])
        meta = next(iter(config["config"].values()))["tensor_meta"]
        meta[name] = {"as_int": 2**40} if name == "storage_offset" else [{"as_int": 2**40}] * 4
        made = [(n, json.dumps(config).encode() if n == CONFIG else data) for n, data in entries]
        refused(write(tmp_path / "m.pt2", inside(made)), "ends beyond its values", tmp_path)


PARTS = {
    "unbind": lambda x: x.unbind(2),
    "split": lambda x: x.split(2, 2),
    "chunk": lambda x: x.chunk(3, 2),
    "tensor_split": lambda x: x.tensor_split(3, 2),
}


@pytest.fixture(params=PARTS)
def parted(request, tmp_path):
    """The entries of a program that takes a map of 5 x 2 points apart, and those who made it."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c = torch.nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x):
            return sum(one.sum(2) for one in PARTS[request.param](self.c(x)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Module(), (torch.zeros(1, 1, 5, 2),)), tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        return request.param, [(name.split("/", 1)[1], archive.read(name)) for name in archive.namelist()]


def declaring(entries, size, names):
    """The entries with another length of the maps of these names."""

    def change(program):
        for name in names:
            program["graph_module"]["graph"]["tensor_values"][name]["sizes"][2] = {"as_int": size}

    return changed(entries, change)


def test_lists_as_long_as_their_sizes_make_them_are_read(parted, tmp_path):
    read_both(write(tmp_path / "m.pt2", inside(parted[1])))


@pytest.mark.parametrize("size", [2**22, 2**40])
@pytest.mark.parametrize("parted", ["unbind", "split"], indirect=True)
def test_lists_shorter_than_their_sizes_make_them_are_refused(parted, size, tmp_path):
    path = write(tmp_path / "m.pt2", declaring(parted[1], size, ["x", "conv2d"]))
    refused(path, "declares [35] parts where an input of shape", tmp_path)
    # What the convolution makes is declared as it was: it is larger.
    path = write(tmp_path / "m.pt2", declaring(parted[1], size, ["x"]))
    refused(path, "declares [35] parts where an input of shape", tmp_path)


@pytest.mark.parametrize("parted", ["chunk", "tensor_split"], indirect=True)
def test_more_parts_than_declared_are_refused(parted, tmp_path):
    kind, entries = parted

    def change(program):
        for node in program["graph_module"]["graph"]["nodes"]:
            if f".{kind}." in node["target"]:
                node["inputs"][1]["arg"]["as_int"] = 2**40

    path = write(tmp_path / "m.pt2", changed(entries, change))
    refused(path, "declares 3 parts where an input of shape", tmp_path)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_time_axis_of_any_length_is_not_walked_along(kind, tmp_path):
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.r = getattr(torch.nn, kind)(3, 2)
            self.c = torch.nn.Conv1d(1, 2, 3)

        def forward(self, x):
            return self.r(x)[0], self.c(x[:1, :, :].reshape(1, 1, 3))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Module(), (torch.zeros(4, 1, 3),)), tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        entries = [(name.split("/", 1)[1], archive.read(name)) for name in archive.namelist()]

    def change(program):
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0] = {"as_int": 2**30}

    path = write(tmp_path / "m.pt2", changed(entries, change))
    assert [layer.name for layer in read_model(path).layers] == ["c"]
    with pytest.raises(InputError, match="makes a tensor of more than"):
        read_graph(path)


def test_what_writes_into_its_input_is_followed(tmp_path):
    """As the program computes it, or refused where another view of what is written is read later."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c = torch.nn.Conv2d(2, 3, 3, padding=1)
            self.register_buffer("table", torch.zeros(3))

        def forward(self, x):
            y = self.c(x)
            y += 0.5
            kept = y.view(-1)
            z = (2 * y).relu_().mul_(3.0)
            scale = torch.ones(3)
            scale[1] = 4.0
            with torch.no_grad():
                z = self.c(z[:, :2]) * scale.view(1, 3, 1, 1)
            y += 1
            return z, kept, y * 2

    torch.manual_seed(0)
    module = Module().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, (torch.zeros(1, 2, 4, 4),)), tmp_path / "m.pt2")
    graph = read_graph(tmp_path / "m.pt2")
    assert [layer.name for layer in read_model(tmp_path / "m.pt2").layers] == ["c", "c#2"]
    report = lipschitz(graph)
    assert [one.name for one in report.outputs] == [graph.outputs[0]]
    assert all("other views are read later" in reason for reason in report.refused.values())
    assert len(report.refused) == 2
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    (found,) = Derivative(graph, folded(graph, graph.outputs[:1])).values((x,), graph.outputs[:1])
    with torch.no_grad():
        torch.testing.assert_close(found, module.double()(x.clone())[0], rtol=1e-6, atol=1e-6)


def saved(module, given, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module.eval(), (given,)), path)
    return path


class Function(torch.nn.Module):
    """A linear layer, and a function of what it makes and of a weight."""

    def __init__(self, function, weight):
        super().__init__()
        self.first, self.function, self.weight = torch.nn.Linear(4, 4), function, torch.nn.Parameter(weight)

    def forward(self, x):
        return self.function(self.first(x), self.weight)


def test_the_factors_of_addmm_are_part_of_layer_and_bound(tmp_path):
    def function(x, weight):
        return torch.addmm(torch.ones(4, dtype=x.dtype), x, weight, alpha=-3, beta=5)

    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    module = Function(function, weight)
    path = saved(module, torch.zeros(2, 4), tmp_path / "m.pt2")
    kernel = read_model(path).layers[1].kernel[..., 0]
    torch.testing.assert_close(torch.from_numpy(kernel), -3 * weight.T.double())
    graph = read_graph(path)
    x = torch.randn(2, 4, dtype=torch.float64)
    (found,) = Derivative(graph, folded(graph, graph.outputs)).values((x,), graph.outputs)
    with torch.no_grad():
        torch.testing.assert_close(found, function(module.first.double()(x), weight.double()))
    both = -3 * weight.T.double() @ module.first.weight
    norm = float(torch.linalg.matrix_norm(both.detach(), 2))
    assert norm <= lipschitz(graph).outputs[0].upper


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x, weight: torch.einsum("bi,ij->bj", x, weight), (4, 4)),
        (lambda x, weight: torch.bmm(x[:, None], weight), (2, 4, 4)),
        (lambda x, weight: torch.matmul(x[:, None], weight), (2, 4, 4)),
        (lambda x, weight: torch.baddbmm(x[:, None], x[:, None], weight), (2, 4, 4)),
        (lambda x, weight: torch.nn.functional.bilinear(x, x, weight), (2, 4, 4)),
        (lambda x, weight: torch.tensordot(x, weight, dims=1), (4, 4)),
        (lambda x, weight: torch.mv(weight, x[0]), (4, 4)),
    ],
)
def test_other_products_with_weights_are_listed_as_not_read(function, shape, tmp_path):
    module = Function(function, torch.ones(shape))
    model = read_model(saved(module, torch.zeros(2, 4), tmp_path / "m.pt2"))
    assert [layer.name for layer in model.layers] == ["first"]
    (one,) = model.unread
    assert re.search("an operator that is not read|of shape .2, 4, 4.; a matrix is read", one.reason)


def test_a_product_with_a_vector_is_a_layer_and_a_mask_is_none(tmp_path):
    def function(x, weight):
        attended = torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(2, 2))
        return attended @ weight

    model = read_model(saved(Function(function, torch.ones(4)), torch.zeros(2, 4), tmp_path / "m.pt2"))
    assert [layer.kernel.shape for layer in model.layers] == [(4, 4, 1), (1, 4, 1)]
    assert not model.unread


@pytest.mark.parametrize("draw", ["uniform_", "exponential_", "normal_", "random_"])
def test_weights_that_are_drawn_at_run_time_are_not_invented(draw, tmp_path):
    def function(x, weight):
        return torch.nn.functional.linear(x, weight + getattr(torch.zeros(4, 4), draw)())

    path = saved(Function(function, torch.ones(4, 4)), torch.zeros(2, 4), tmp_path / "m.pt2")
    model = read_model(path)
    assert [layer.name for layer in model.layers] == ["first"]
    assert [one.reason for one in model.unread] == ["its weights are computed at run time"]
    with pytest.raises(InputError, match="it draws random numbers"):
        lipschitz(read_graph(path))
