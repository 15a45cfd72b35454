"""Which cells of a field are kept, which are left out and why, and the ways to find them."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from fake_encoder import CHANNELS, PIXEL_UM, FakeEncoder, write_manifest
from PIL import Image
from scipy.ndimage import gaussian_filter

from ingest.job import Options, ingest_pictures
from ingest.manifest import read_manifest
from subcell_atlas.errors import BadInput, UnknownName
from subcell_atlas.images import cellpose
from subcell_atlas.images.crops import cut_cells
from subcell_atlas.images.segmentation import SEGMENTERS, choose_cells, enlarge, segment_cells
from subcell_atlas.images.watershed import clumps_of, join_micronuclei, label_nuclei, watershed_cells
from subcell_atlas.store import Store


def discs(side: int, centers, radius: float) -> np.ndarray:
    """Labels of discs, numbered from 1."""
    rows, columns = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate(centers, start=1):
        labels[np.hypot(rows - y, columns - x) < radius] = number
    return labels


def field(side=500, centers=((110, 110), (110, 330), (330, 110), (330, 330)), *, uneven=0.0, dim=()):
    """Nucleus and cytoplasm of cells at 0.4 µm a pixel."""
    nuclei, bodies = discs(side, centers, 20), discs(side, centers, 45)
    strength = np.array([0, *(30 if number in dim else 160 for number in range(1, len(centers) + 1))])
    light = 1 + uneven * np.linspace(-1, 1, side)
    noise = np.random.default_rng(0).normal(0, 3, (2, side, side))
    planes = (strength[nuclei] * light, 100.0 * (bodies > 0) * light)
    return [(gaussian_filter(plane, 2) + 10 + noise[i]).clip(0, 255).astype(np.uint8) for i, plane in enumerate(planes)]


def test_cut_cells_fragments_and_doublets_are_left_out_and_counted():
    labels = discs(400, [(60 + 80 * i, 60 + 80 * j) for i in range(3) for j in range(3)], 25)
    labels[150:160, 380:400] = 20  # at the border
    labels[385:389, 200:206] = 21  # dirt
    labels[300:380, 20:330] = 22  # several in one
    chosen = choose_cells(labels, fragment_px=64)
    assert chosen.left_out == {"cut by the border": 1, "fragments": 1, "doublets": 1}
    assert set(np.unique(chosen.labels)) == set(range(10))
    np.testing.assert_array_equal(chosen.labels[labels < 10], labels[labels < 10])


def test_a_cell_that_only_touches_the_border_is_kept():
    labels = discs(200, [(100, 39)], 40)
    assert labels[:, 0].any()
    assert choose_cells(labels, fragment_px=64).left_out == {}


def test_of_few_cells_a_large_one_is_no_doublet_and_a_clump_of_nuclei_is():
    labels = discs(300, [(60, 60), (60, 200)], 25)
    labels[120:280, 40:280] = 3
    assert choose_cells(labels, fragment_px=64).left_out == {}
    assert choose_cells(labels, fragment_px=64, clumps=[3, 2]).left_out == {"doublets": 2}


def test_nothing_left_out_is_the_labels_themselves():
    labels = discs(100, [(50, 50)], 20)
    assert choose_cells(labels, fragment_px=10).labels is labels


@pytest.mark.parametrize(("pixel_um", "times"), [(0.4, 1), (0.2, 2), (0.1, 4)])
def test_every_whole_cell_is_found_at_any_scale(pixel_um, times):
    planes = [np.kron(plane, np.ones((times, times), np.uint8)) for plane in field()]
    found = segment_cells(*planes, pixel_size_um=pixel_um)
    truth = np.kron(discs(500, ((110, 110), (110, 330), (330, 110), (330, 330)), 45), np.ones((times, times), int))
    for number in range(1, 5):
        label = np.bincount(found.labels[truth == number]).argmax()
        both = ((found.labels == label) & (truth == number)).sum()
        assert both / ((found.labels == label) | (truth == number)).sum() > 0.85
    assert found.left_out == {}
    assert found.labels.shape == planes[0].shape


def test_uneven_light_and_a_dim_nucleus_lose_no_cell():
    assert len(np.unique(segment_cells(*field(uneven=0.5), pixel_size_um=0.4).labels)) == 5
    assert len(np.unique(segment_cells(*field(dim=(2,)), pixel_size_um=0.4).labels)) >= 4


def test_an_elongated_nucleus_is_one_and_two_that_touch_are_two():
    rows, columns = np.mgrid[:200, :200]
    long = (np.abs(rows - 100) < 14) & (np.abs(columns - 100) < 40)
    labels = label_nuclei(gaussian_filter(long.astype(float), 2), pixel_um=0.4)
    assert labels.max() == 1
    two = (np.hypot(rows - 100, columns - 75) < 27) | (np.hypot(rows - 100, columns - 125) < 27)
    labels = label_nuclei(gaussian_filter(two.astype(float), 2), pixel_um=0.4)
    assert labels.max() == 2
    assert labels[100, 70] != labels[100, 130]


def test_a_clump_of_nuclei_is_told_from_large_round_ones():
    nuclei = discs(400, [(50, 50), (50, 150), (50, 250), (50, 350)], 20)
    nuclei[discs(400, [(200, 100)], 40) > 0] = 5  # large and round
    nuclei[(discs(400, [(300, 200), (300, 260), (350, 230)], 24) > 0) | (discs(400, [(322, 230)], 12) > 0)] = 6
    assert clumps_of(nuclei) == [6]


def test_no_cell_reaches_far_beyond_its_nucleus_or_over_a_thin_bridge():
    nucleus, cytoplasm = field(centers=((110, 110),))
    cytoplasm[108:112, 110:480] = 100  # a thread
    cytoplasm[60:160, 400:480] = 100  # a cell whose nucleus is out of focus
    labels, _, _ = watershed_cells(nucleus, cytoplasm, 0.4)
    assert labels[110, 110] == 1
    assert not labels[60:160, 400:480].any()


def test_a_micronucleus_is_part_of_the_cell_it_lies_in_and_a_small_neighbor_is_not():
    nucleus, cytoplasm = field(centers=((110, 330), (330, 330)))
    rest = np.random.default_rng(1).normal(12, 3, (2, 500, 500))
    nucleus = np.maximum(nucleus, rest[0] + 150 * (discs(500, [(150, 110), (150, 160)], 9) > 0))
    nucleus = np.maximum(nucleus, rest[0] + 150 * (discs(500, [(150, 110)], 33) > 0))
    cytoplasm = np.maximum(cytoplasm, rest[1] + 100 * (discs(500, [(150, 120)], 70) > 0))
    labels, _, _ = watershed_cells(nucleus, cytoplasm, 0.4)
    assert (labels[discs(500, [(150, 120)], 60) > 0] == labels[150, 110]).all()
    assert len(np.unique(labels)) == 4  # and the background
    cells, nuclei = np.repeat([[1, 2]], 20, axis=0).repeat(20, axis=1), np.zeros((20, 40), int)
    nuclei[2:18, 2:18], nuclei[5:10, 30:36] = 1, 2  # 256 px and 30: more than a tenth
    np.testing.assert_array_equal(join_micronuclei(cells, nuclei), cells)
    nuclei[9, 30:36] = 0
    assert (join_micronuclei(cells, nuclei) == 1).all()


def test_two_channels_suffice_as_in_opencell():
    nucleus, cytoplasm = field()
    cut = cut_cells(
        {"nucleus": nucleus, "protein": cytoplasm}, None, is_crop=False, masking="cell", pixel_size_um=0.4, crop_um=40,
        crop_px=64,
    )  # fmt: skip
    assert len(cut.crops) == 4
    assert cut.mask_source == "watershed"


def test_labels_are_enlarged_to_the_nearest_pixel():
    labels = np.random.default_rng(0).integers(0, 9, (40, 30)).astype(np.int32)
    for shape in ((40, 30), (80, 60), (123, 77)):
        expected = labels[np.arange(shape[0])[:, None] * 40 // shape[0], np.arange(shape[1]) * 30 // shape[1]]
        np.testing.assert_array_equal(enlarge(labels, shape), expected)


def test_cutting_the_window_first_gives_what_masking_the_whole_picture_gives():
    labels = discs(300, [(60, 60), (60, 140), (150, 100), (240, 240)], 42)
    rng = np.random.default_rng(3)
    channels = {name: rng.integers(1, 255, labels.shape).astype(np.uint8) for name in ("nucleus", "protein")}
    cut = cut_cells(channels, labels, is_crop=False, masking="cell", pixel_size_um=1.0, crop_um=96.0, crop_px=96)
    stack = np.stack(list(channels.values()))
    for crop, box in zip(cut.crops, cut.boxes, strict=True):
        masked = np.pad(stack * (labels == box.label), ((0, 0), (96, 96), (96, 96)))
        top, left = round(box.center[0] - 48) + 96, round(box.center[1] - 48) + 96
        np.testing.assert_array_equal(crop, masked[:, top : top + 96, left : left + 96])


def test_an_unknown_way_is_refused_with_those_that_are_known():
    with pytest.raises(UnknownName, match="watershed"):
        segment_cells(*field(), pixel_size_um=0.4, segmenter="magic")
    assert set(SEGMENTERS) == {"watershed", "cellpose"}


# Cellpose, by a stand-in with its signature


@pytest.fixture
def pose(monkeypatch):
    """A module such as Cellpose's; tells what its network was given."""
    given = []

    class CellposeModel:
        def __init__(self, *, gpu):
            self.gpu = gpu

        def eval(self, x, *, channel_axis):
            given.append((x, channel_axis))
            return discs(len(x), [(60, 60), (150, 150)], 40), [], []

    package, models = types.ModuleType("cellpose"), types.ModuleType("cellpose.models")
    models.CellposeModel = CellposeModel
    monkeypatch.setitem(sys.modules, "cellpose", package)
    monkeypatch.setitem(sys.modules, "cellpose.models", models)
    cellpose.cellpose_model.cache_clear()
    yield given
    cellpose.cellpose_model.cache_clear()


def test_cellpose_is_given_cytoplasm_and_nucleus_at_its_scale_and_its_labels_are_taken(pose):
    planes = [np.kron(plane[:400, :400], np.ones((2, 2), np.uint8)) for plane in field()]
    found = segment_cells(*planes, pixel_size_um=0.2, segmenter="cellpose")
    ((picture, axis),) = pose
    assert (picture.shape, picture.dtype, axis) == ((400, 400, 3), np.float32, -1)
    assert picture[..., :2].max() == 1
    assert not picture[..., 2].any()
    assert found.labels.shape == (800, 800)
    assert {found.labels[120, 120], found.labels[300, 300]} == {1, 2}


def test_without_cellpose_or_its_weights_a_line_says_what_to_do(monkeypatch, pose):
    def no_weights(**_):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(sys.modules["cellpose.models"], "CellposeModel", no_weights)
    with pytest.raises(BadInput, match=r"weights could not be loaded: .*name resolution"):
        segment_cells(*field(), pixel_size_um=0.4, segmenter="cellpose")
    monkeypatch.setitem(sys.modules, "cellpose.models", None)
    with pytest.raises(BadInput, match=r"pip install 'subcell-atlas\[cellpose\]'"):
        segment_cells(*field(), pixel_size_um=0.4, segmenter="cellpose")


def test_the_job_counts_what_is_left_out_and_embeds_anew_what_is_segmented_otherwise(tmp_path, pose, monkeypatch):
    side = 200
    labels = discs(side, [(60, 60), (140, 140)], 30)
    labels[90:110, :20] = 3
    rng = np.random.default_rng(0)
    rows = [{"image_id": "f", "gene_symbol": "G", "mask": "f_mask.png"}]
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "f_mask.png")
    for name in CHANNELS:
        rows[0][name] = f"f_{name}.png"
        plane = (
            (labels > 0) * 90 + rng.integers(0, 20, labels.shape) + 60 * (discs(side, [(60, 60), (140, 140)], 12) > 0)
        )
        Image.fromarray(plane.astype(np.uint8)).save(tmp_path / rows[0][name])
    store = Store.create(str(tmp_path / "atlas"))

    def ingest(row, segmenter):
        source = read_manifest(
            write_manifest(tmp_path / "m.csv", [row]), channels=CHANNELS, encoder="fake", crops=False
        )
        options = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM, segmenter=segmenter)
        return ingest_pictures(store, source, FakeEncoder(), options)

    counts = ingest(rows[0], "watershed")
    assert (counts.cells, counts.left_out) == (2, {"cut by the border": 1})
    ingest(rows[0] | {"mask": ""}, "watershed")
    assert ingest(rows[0] | {"mask": ""}, "watershed").done_before == 1
    assert ingest(rows[0] | {"mask": ""}, "cellpose").cells > 0
    assert set(store.read("cells", ["mask_source"])["mask_source"].to_pylist()) == {"cellpose"}
    assert ingest(rows[0] | {"mask": ""}, "watershed").cells > 0
    monkeypatch.setattr("ingest.prepare.CELLS_VERSION", 99)
    assert ingest(rows[0] | {"mask": ""}, "watershed").done_before == 0
    assert ingest(rows[0] | {"mask": ""}, "watershed").done_before == 1
