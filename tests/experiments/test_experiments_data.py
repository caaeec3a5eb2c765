"""The data of the experiments: crafted files in every form, hostile ones, the official ones."""

from __future__ import annotations

import gzip
import io
import mmap
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from convspectra.errors import InputError
from convspectra_experiments.data import cifar, datasets

DATA = os.environ.get("CONVSPECTRA_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="CONVSPECTRA_DATA is not set")

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
COUNTS = (3, 1, 2, 3, 2, 4)


def tiny(seed=0):
    """Images and labels of six tiny batches."""
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), [int(v) for v in rng.integers(0, 10, n)])
        for n in COUNTS
    ]


def binary_batch(images, labels):
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def python_batch(images, labels, *, dtype=b"u1", columns=3072, order=b"\x89"):
    """As Python 2 wrote them, string by string."""
    raw = images.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K"
    array += bytes([len(images)]) + b"M" + columns.to_bytes(2, "little") + b"\x86cnumpy\ndtype\nU"
    array += (
        bytes([len(dtype)])
        + dtype
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array += order + b"T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    entries = b"".join(b"J" + label.to_bytes(4, "little", signed=True) for label in labels)
    return b"\x80\x02}(U\x06labels](" + entries + b"eU\x04data" + array + b"u."


def make_folder(parent, form, batches=None):
    folder = parent / f"cifar-10-batches-{form}"
    folder.mkdir(parents=True)
    for name, (images, labels) in zip(NAMES, batches or tiny(), strict=True):
        if form == "bin":
            (folder / f"{name}.bin").write_bytes(binary_batch(images, labels))
        else:
            (folder / name).write_bytes(python_batch(images, labels))
    (folder / "readme.html").write_text("nothing")
    return folder


def make_archive(path, folder, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        archive.add(folder, folder.name)
    return path


def expected(batches=None):
    *train, test = batches or tiny()
    every = (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train]))
    return every, (test[0], np.array(test[1]))


def assert_is(found, wanted):
    for (images, labels), (wanted_images, wanted_labels) in zip(found, wanted, strict=True):
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert np.array_equal(images, wanted_images)
        assert np.array_equal(labels, wanted_labels)
        assert type(labels) is np.ndarray


def is_mapped(array):
    while array is not None:
        if isinstance(array, mmap.mmap):
            return True
        array = array.base if isinstance(array, np.ndarray) else getattr(array, "obj", None)
    return False


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_crafted_batches_are_what_numpy_would_read():
    images, labels = tiny()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's old module name
        found = pickle.loads(python_batch(images, labels), encoding="bytes")
    assert found[b"labels"] == labels
    assert np.array_equal(found[b"data"], images.reshape(-1, 3072))


FORMS = {
    "python folder": lambda at: make_folder(at, "py"),
    "its parent": lambda at: make_folder(at, "py").parent,
    "binary folder": lambda at: make_folder(at, "bin"),
    "binary parent": lambda at: make_folder(at, "bin").parent,
    "python archive": lambda at: make_archive(at / "cifar-10-python.tar.gz", make_folder(at / "a", "py")),
    "binary archive": lambda at: make_archive(at / "cifar-10-binary.tar.gz", make_folder(at / "a", "bin")),
    "another name": lambda at: make_archive(at / "data.bin", make_folder(at / "a", "py")),
    "no compression": lambda at: make_archive(at / "data.tar.gz", make_folder(at / "a", "bin"), "w"),
    "files renamed": lambda at: make_folder(at, "bin").rename(at / "elsewhere"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form, tmp_path):
    source = FORMS[form](tmp_path)
    assert_is(cifar.read(source, check=False), expected())
    for _ in range(2):
        found = cifar.read(source, tmp_path / "deep" / "cache", check=False)
        assert_is(found, expected())
        assert all(is_mapped(images) and not images.flags.writeable for images, _ in found)


def test_what_is_mapped(tmp_path):
    folder = make_folder(tmp_path, "bin")
    (train, _), (test, _) = cifar.read(folder, check=False)
    assert (is_mapped(train), is_mapped(test)) == (False, True)
    cifar.read(folder, tmp_path / "cache", check=False)
    assert [name[:14] for name in names_in(tmp_path / "cache")] == ["cifar10-train-"]
    (train, _), (test, _) = cifar.read(make_folder(tmp_path, "py"), check=False)
    assert (is_mapped(train), is_mapped(test)) == (False, False)


def test_the_binary_form_first_unless_it_is_not_whole(tmp_path):
    make_folder(tmp_path, "py", tiny(1))
    binary = make_folder(tmp_path, "bin", tiny(2))
    assert_is(cifar.read(tmp_path, check=False), expected(tiny(2)))
    (binary / "data_batch_4.bin").unlink()
    assert_is(cifar.read(tmp_path, check=False), expected(tiny(1)))


def test_the_cache_is_written_once_for_each_content(tmp_path):
    cache, folder = tmp_path / "cache", make_folder(tmp_path, "py")
    cifar.read(folder, cache, check=False)
    first = {path: path.stat().st_ino for path in cache.iterdir()}
    assert len(first) == 2
    cifar.read(make_archive(tmp_path / "the same.tgz", folder), cache, check=False)
    assert {path: path.stat().st_ino for path in cache.iterdir()} == first
    batches = tiny()
    batches[2] = tiny(5)[2]
    (folder / NAMES[2]).write_bytes(python_batch(*batches[2]))
    assert_is(cifar.read(folder, cache, check=False), expected(batches))
    assert len(names_in(cache)) == 3


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: old[:7],
        lambda old: old[:-1],
        lambda old: b"no array" * 1000,
        lambda old: npy(np.zeros((11, 3072), np.uint8)),
        lambda old: npy(np.zeros((11, 3073), np.int8)),
        lambda old: npy(np.zeros((11, 3073, 1), np.uint8)),
        lambda old: npy(np.zeros((0, 3073), np.uint8)),
        lambda old: npy(np.asfortranarray(np.zeros((11, 3073), np.uint8))),
        lambda old: npy(np.full((11, 3073), 10, np.uint8)),
        lambda old: b"\x80\x04\x95" + old,
    ],
)
def test_a_damaged_cache_is_made_again(damage, tmp_path):
    cache, folder = tmp_path / "cache", make_folder(tmp_path, "bin")
    cifar.read(folder, cache, check=False)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_is(cifar.read(folder, cache, check=False), expected())
    assert path.read_bytes() == whole
    assert names_in(cache) == [path.name]


def test_a_cache_that_cannot_be_there(tmp_path):
    folder = make_folder(tmp_path, "py")
    with pytest.raises(InputError, match=r"cache .*readme.html cannot be made"):
        cifar.read(folder, folder / "readme.html", check=False)


def test_several_processes_may_fill_the_cache(tmp_path):
    code = (
        "import sys; from pathlib import Path; from convspectra_experiments.data import cifar\n"
        "(x, _), (z, _) = cifar.read(Path(sys.argv[1]), Path(sys.argv[2]), check=False)\n"
        "assert 'torch' not in sys.modules\n"
        "print(int(x.sum()) + int(z.sum()))"
    )
    command = [sys.executable, "-c", code, str(make_folder(tmp_path, "py")), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120)[0] for process in running]
    (train, _), (test, _) = expected()
    assert said == [f"{int(train.sum()) + int(test.sum())}\n"] * 3
    assert len(names_in(tmp_path / "cache")) == 2


@pytest.mark.parametrize("form", ["bin", "py"])
def test_the_official_sums_are_asked_for_first(form, tmp_path):
    folder = make_folder(tmp_path, form)
    first = folder / ("data_batch_1.bin" if form == "bin" else "data_batch_1")
    first.write_bytes(HOSTILE["os.system"])
    official = "5dd7e06a14cb22eb9f671a540d1b7c25" if form == "bin" else "c99cafc152244af753f735de768cd75f"
    for source in (folder, make_archive(tmp_path / "a.tgz", folder)):
        with pytest.raises(InputError, match=f"{first.name} of .* MD5 .*{official}; get it again"):
            cifar.read(source, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


HOSTILE = {
    "os.system": b"\x80\x02cos\nsystem\nU\x04true\x85R.",
    "builtins.eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "numpy.load": b"\x80\x02cnumpy\nload\nU\x01x\x85R.",
    "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "posix.system": b"(S'true'\niposix\nsystem\n.",
    "collections.OrderedDict": pickle.dumps(__import__("collections").OrderedDict(), 2),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_holds_code_is_not_run(name, tmp_path):
    folder = make_folder(tmp_path, "py")
    (folder / "data_batch_3").write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match=rf"data_batch_3 of .* holds code \({name}\) and was not run"):
        cifar.read(folder, check=False)


def test_pickled_numpy_objects_stay_inert(tmp_path):
    folder = make_folder(tmp_path, "py")
    images, labels = tiny()[0]
    # Bytes that NumPy itself would take for pointers.
    (folder / NAMES[0]).write_bytes(python_batch(images, labels, dtype=b"O"))
    with pytest.raises(InputError, match=r"data must be bytes"):
        cifar.read(folder, check=False)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (pickle.dumps([1, 2]), "must be a dictionary of data and labels"),
        (pickle.dumps({b"labels": [1]}), "must be a dictionary of data and labels"),
        (pickle.dumps({b"labels": [1], b"data": b"x" * 3072}), "data must be bytes of shape"),
        (python_batch(tiny()[0][0], [1, 2]), r"got shape \(3, 3072\) and 2 labels"),
        (python_batch(tiny()[0][0], [1, 2, 10]), "labels must be 0 to 9; got 10"),
        (python_batch(tiny()[0][0], [1, -1, 1]), "labels must be 0 to 9; got -1"),
        (python_batch(tiny()[0][0][:0], []), "labels must be 0 to 9; got None"),
        (python_batch(tiny()[0][0], [1, 2, 3], columns=3071), "got something else and 3 labels"),
        (python_batch(tiny()[0][0], [1, 2, 3], order=b"\x88"), "got something else and 3 labels"),
        (python_batch(tiny()[0][0], [1, 2, 3], dtype=b"i1"), "got something else and 3 labels"),
        (b"\x89PNG", "is no python batch"),
    ],
)
def test_python_batches_of_something_else(batch, said, tmp_path):
    folder = make_folder(tmp_path, "py")
    (folder / "test_batch").write_bytes(batch)
    with pytest.raises(InputError, match="test_batch of .*" + said):
        cifar.read(folder, check=False)


def test_files_cut_short(tmp_path):
    folder, binary = make_folder(tmp_path, "py"), make_folder(tmp_path, "bin")
    whole = (folder / NAMES[0]).read_bytes()
    for length in (1, 2, 3, 20, 60, 100, 150, 300, 5000, len(whole) - 2, len(whole) - 1):
        (folder / NAMES[0]).write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"data_batch_1 of .* is no python batch, or it is cut short"):
            cifar.read(folder, check=False)
    path = binary / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"data_batch_2.bin of .* cut short: 3072 bytes"):
        cifar.read(binary, check=False)
    path.write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(InputError, match=r"labels must be"):
        cifar.read(binary, check=False)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"data_batch_2.bin is no batch of CIFAR-10: it has 0 bytes"):
        cifar.read(binary, check=False)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_cut_short(mode, tmp_path):
    path = make_archive(tmp_path / "a", make_folder(tmp_path, "bin"), mode)
    whole = path.read_bytes()
    # A tar file ends with at least 1024 zeros, which may go missing.
    end = len(whole) - (12000 if mode == "w" else 1)
    for length in (0, 1, 2, 9, 300, 513, 2000, len(whole) // 2, end):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut short or damaged|nor a whole|lacks|holds no batches"):
            cifar.read(path, check=False)


def test_sources_without_batches(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        cifar.read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no batches of CIFAR-10: expected data_batch_1.bin"):
        cifar.read(tmp_path)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(InputError, match=r"text is neither a folder nor a whole .tar.gz"):
        cifar.read(tmp_path / "text")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(InputError, match=r"text.gz is neither a folder nor a whole .tar.gz"):
        cifar.read(tmp_path / "text.gz")
    folder = make_folder(tmp_path, "py")
    (folder / NAMES[1]).unlink()
    (folder / NAMES[5]).unlink()
    for source in (tmp_path, folder, make_archive(tmp_path / "a.tar.gz", folder)):
        with pytest.raises(InputError, match="lacks data_batch_2, test_batch of CIFAR-10"):
            cifar.read(source)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_sources_that_may_not_be_read(form, tmp_path, monkeypatch):
    def refuse(self, *given, **named):
        raise PermissionError(13, "Permission denied", str(self))

    source = make_folder(tmp_path, "bin")
    source = source if form == "folder" else make_archive(tmp_path / "a.tar.gz", source)
    monkeypatch.setattr(Path, "open" if form == "archive" else "is_file", refuse)
    with pytest.raises(InputError, match=r"(a.tar.gz|batch_1.bin) cannot be read: Permission denied"):
        cifar.read(source, check=False)


def archive_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, change in members:
            member = tarfile.TarInfo(name)
            content = b"\x01" * 3073
            member.size = len(content)
            for key, value in change.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return path


@pytest.mark.parametrize("name", ["/etc/data_batch_1.bin", "../data_batch_1.bin", "a/../../b", "/x"])
def test_archives_with_names_outside_of_them(name, tmp_path):
    members = [(f"cifar-10-batches-bin/{each}.bin", {}) for each in NAMES]
    path = archive_of(tmp_path / "a.tar.gz", [*members, (name, {})])
    with pytest.raises(InputError, match="a name outside of it"):
        cifar.read(path, check=False)
    assert names_in(tmp_path) == ["a.tar.gz"]


def test_archives_with_links_and_large_members(tmp_path, monkeypatch):
    rest = [(f"./{each}.bin", {}) for each in NAMES[1:]]
    assert len(cifar.read(archive_of(tmp_path / "a", [("data_batch_1.bin", {}), *rest]), check=False)) == 2
    link = ("data_batch_1.bin", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd", "size": 0})
    with pytest.raises(InputError, match=r"lacks data_batch_1.bin"):
        cifar.read(archive_of(tmp_path / "b", [link, *rest]), check=False)
    monkeypatch.setattr(cifar, "_LARGEST_BATCH", 3000)
    with pytest.raises(InputError, match=r"data_batch_1.bin of .* is no batch: it has 3073 bytes"):
        cifar.read(tmp_path / "a", check=False)
    monkeypatch.setattr(cifar, "_LARGEST_ARCHIVE", 10000)
    with pytest.raises(InputError, match="larger than any archive"):
        cifar.read(tmp_path / "a", check=False)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "data_batch_1.bin").write_bytes(bytes(3073))
    for name in NAMES[1:]:
        (tmp_path / "c" / f"{name}.bin").write_bytes(bytes(10))
    with pytest.raises(InputError, match=r"data_batch_1.bin is no batch of CIFAR-10: it has 3073 bytes"):
        cifar.read(tmp_path / "c", check=False)


def test_digits():
    found = datasets.load(None)
    assert (found.name, found.classes, found.channels, found.size) == ("digits", 10, 1, (8, 8))
    assert (found.flips, found.crop) == (False, 1)
    assert found.train.images.shape == (1397, 1, 8, 8)
    assert found.test.images.shape == (400, 1, 8, 8)
    assert (found.train.images.dtype, found.train.labels.dtype) == (np.uint8, np.int64)
    from sklearn.datasets import load_digits

    raw = load_digits()
    assert np.array_equal(found.test.labels, raw.target[-400:])
    assert np.array_equal(np.rint(found.train.images[:, 0] / 255 * 16), raw.images[:1397])
    assert (found.train.images.min(), found.train.images.max()) == (0, 255)
    assert found.mean == (pytest.approx(np.mean(found.train.images.astype(float)) / 255),)
    assert found.deviation == (pytest.approx(np.std(found.train.images.astype(float)) / 255),)


def test_load_takes_files_of_the_right_sums(tmp_path, monkeypatch):
    import hashlib

    folder = make_folder(tmp_path, "bin")
    with pytest.raises(InputError, match="is not the official file"):
        datasets.load(folder)
    sums = {f"{n}.bin": hashlib.md5((folder / f"{n}.bin").read_bytes()).hexdigest() for n in NAMES}
    monkeypatch.setattr(cifar, "BINARY", sums)
    found = datasets.load(folder, tmp_path / "cache")
    assert_is(((found.train.images, found.train.labels), (found.test.images, found.test.labels)), expected())
    assert (found.name, found.channels, found.size, found.flips, found.crop) == (
        "cifar10",
        3,
        (32, 32),
        True,
        4,
    )
    images, _ = datasets.to_device(found.train, "cpu", 2)
    images.add_(1)  # a tensor of its own, though the array is a mapping
    assert_is(cifar.read(folder, tmp_path / "cache"), expected())


def test_to_device():
    split = datasets.digits().test
    images, labels = datasets.to_device(split, torch.device("cpu"))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(images.numpy(), split.images)
    assert np.array_equal(labels.numpy(), split.labels)
    images, labels = datasets.to_device(split, "cpu", 7)
    assert np.array_equal(images.numpy(), split.images[:7])
    assert np.array_equal(labels.numpy(), split.labels[:7])
    for count in (-1, 401):
        with pytest.raises(InputError, match=r"^count"):
            datasets.to_device(split, "cpu", count)


def test_normalised():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    split = datasets.Split(images, np.arange(5))
    made = datasets.Data("x", split, split, (0.25, 0.5, 0.75), (0.125, 0.25, 0.5), True, 4, "")
    found = datasets.normalised(torch.from_numpy(images), made)
    assert found.dtype == torch.float32
    for n, c, i, j in np.ndindex(*images.shape):
        wanted = (images[n, c, i, j] / 255 - made.mean[c]) / made.deviation[c]
        assert abs(float(found[n, c, i, j]) - wanted) < 1e-6
    whole = datasets.digits()
    images, _ = datasets.to_device(whole.train, "cpu")
    assert abs(float(datasets.normalised(images, whole).mean())) < 1e-5
    assert float(datasets.normalised(images, whole).std()) == pytest.approx(1, abs=1e-4)


def every_crop(image, crop, flips):
    """All images that may come of one, by plain loops: bytes to (down, right, mirrored)."""
    channels, height, width = image.shape
    found = {}
    for down in range(-crop, crop + 1):
        for right in range(-crop, crop + 1):
            for mirrored in (False, True)[: 1 + flips]:
                made = np.zeros_like(image)
                for c, i, j in np.ndindex(channels, height, width):
                    k = width - 1 - j if mirrored else j
                    if 0 <= i + down < height and 0 <= k + right < width:
                        made[c, i, j] = image[c, i + down, k + right]
                found[made.tobytes()] = (down, right, mirrored)
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 2])
def test_augmented_images_are_crops_of_their_own_image(dtype, flips, crop):
    rng = np.random.default_rng(crop)
    images = rng.integers(1, 256, (9, 2, 5, 4)).astype(dtype)
    given = torch.from_numpy(images.copy())
    found = datasets.augmented(given, crop, flips, torch.Generator().manual_seed(1))
    assert (found.shape, found.dtype) == (given.shape, given.dtype)
    assert np.array_equal(given.numpy(), images)
    assert found.data_ptr() != given.data_ptr()
    for before, after in zip(images, found.numpy(), strict=True):
        assert after.tobytes() in every_crop(before, crop, flips)
    if crop == 0 and not flips:
        assert torch.equal(found, given)


def test_augmented_takes_every_place_alike_and_follows_its_generator():
    image = np.random.default_rng(0).integers(1, 256, (3, 5, 4), dtype=np.uint8)
    choices, count = every_crop(image, 2, True), 5000
    given = torch.from_numpy(np.stack([image] * count))
    first = datasets.augmented(given, 2, True, torch.Generator().manual_seed(3))
    taken = [choices[after.tobytes()] for after in first.numpy()]
    # 100 of each are expected; six standard deviations.
    assert all(abs(taken.count(place) - count / 50) < 60 for place in choices.values())
    neighbours = np.mean([a == b for a, b in zip(taken[1:], taken[:-1], strict=True)])
    assert neighbours < 0.035
    assert torch.equal(first, datasets.augmented(given, 2, True, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, datasets.augmented(given, 2, True, torch.Generator().manual_seed(4)))


def test_augmented_draws_as_much_whatever_is_asked_for():
    images, states = torch.ones(10, 1, 8, 8), []
    for crop, flips in ((0, False), (4, False), (1, True)):
        generator = torch.Generator().manual_seed(0)
        datasets.augmented(images, crop, flips, generator)
        states.append(torch.randint(2**40, (4,), generator=generator))
    assert all(torch.equal(states[0], other) for other in states)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    command = [sys.executable, str(Path(DATA) / "cifar-10" / "unpack.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    for form in ("py", "bin"):
        with tarfile.open(folder / f"{form}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(folder / f"cifar-10-batches-{form}", f"cifar-10-batches-{form}")
    return folder


@needs_data
def test_the_official_files_in_every_form(official, tmp_path):
    records = [
        np.fromfile(official / "cifar-10-batches-bin" / f"{name}.bin", np.uint8).reshape(-1, 3073)
        for name in NAMES
    ]
    batches = [(each[:, 1:].reshape(-1, 3, 32, 32), each[:, 0]) for each in records]
    wanted = expected(batches)
    for source in (
        official / "cifar-10-batches-py",
        official / "cifar-10-batches-bin",
        official,
        official / "py.tar.gz",
        official / "bin.tar.gz",
    ):
        found = cifar.read(source, tmp_path / "cache")
        assert_is(found, wanted)
        assert all(is_mapped(images) for images, _ in found)
    assert len(names_in(tmp_path / "cache")) == 4  # train and test of either form


@needs_data
def test_the_official_set_is_described_as_it_is(official):
    found = datasets.load(official)
    assert (found.classes, found.channels, found.size) == (10, 3, (32, 32))
    assert (len(found.train.labels), len(found.test.labels)) == (50_000, 10_000)
    assert np.array_equal(np.bincount(found.train.labels), [5000] * 10)
    assert np.array_equal(np.bincount(found.test.labels), [1000] * 10)
    for channel in range(3):
        plane = found.train.images[:, channel].astype(np.float64) / 255
        assert abs(plane.mean() - found.mean[channel]) < 5e-5
        assert abs(plane.std() - found.deviation[channel]) < 5e-5
