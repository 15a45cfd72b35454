"""The layouts of the Human Protein Atlas and its kin: each becomes the same kind of rows, with the right channels."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from fake_encoder import CHANNELS, PIXEL_UM, FakeEncoder, draw_cell
from PIL import Image

from ingest.hpa import COLORS, read_hpa
from ingest.job import Options, ingest_pictures
from subcell_atlas.cli import main
from subcell_atlas.errors import BadImage, BadInput
from subcell_atlas.images.files import decode_channels
from subcell_atlas.store import Store

QUIET = Options(workers=0, progress=False, pixel_size_um=PIXEL_UM)
COLOR_OF = {channel: color for color, channel in COLORS.items()}


def write_field(folder: Path, stem: str, seed: int, *, suffix: str = "png", side: int = 48) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel, plane in draw_cell(seed, side=side).items():
        path = folder / f"{stem}_{COLOR_OF[channel]}.{suffix}"
        if suffix == "tif":
            tifffile.imwrite(path, plane.astype(np.uint16) * 200)
        else:
            Image.fromarray(plane).save(path)


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def hpa(source, **options):
    return read_hpa(str(source), channels=CHANNELS, **options)


def stored(tmp_path, found) -> dict[str, dict]:
    store = Store.create(str(tmp_path / "atlas"))
    ingest_pictures(store, found.manifest, FakeEncoder(), QUIET)
    return {row["image_id"]: row for row in store.read("cells").to_pylist()}


# fields of view


def test_a_folder_of_colors_is_fields_of_view_and_its_names_tell_plate_and_well(tmp_path):
    write_field(tmp_path / "in" / "35405", "836_D4_1", 1, suffix="jpg")
    write_field(tmp_path / "in", "7_C5_12", 2, suffix="tif")
    write_field(tmp_path / "in", "B2AI_1_Paclitaxel_C1_R2_z01", 3)
    write_field(tmp_path / "in", "my field", 4)
    (tmp_path / "in" / "readme.txt").write_text("no picture")
    found = hpa(tmp_path / "in")
    assert (found.layout, len(found.manifest), found.manifest.is_crops) == ("fields", 4, False)
    rows = {row["image_id"]: row for row in found.manifest.rows}
    wanted = ("plate", "well", "fov", "condition", "antibody")
    assert [rows["35405/836_D4_1"].get(name) for name in wanted] == ["836", "D4", "1", None, "35405"]
    assert [rows["7_C5_12"].get(name) for name in wanted] == ["7", "C5", "12", None, None]
    assert [rows["B2AI_1_Paclitaxel_C1_R2_z01"].get(name) for name in wanted] == [
        "B2AI_1", "C1", "R2_z01", "Paclitaxel", None,
    ]  # fmt: skip
    assert [rows["my field"].get(name) for name in wanted] == [None, None, "my field", None, None]
    assert {channel: rows["7_C5_12"][channel] for channel in CHANNELS} == {
        channel: f"7_C5_12_{COLOR_OF[channel]}.tif" for channel in CHANNELS
    }


def test_a_field_that_lacks_a_color_is_rejected_by_name(tmp_path):
    for number in range(2):
        write_field(tmp_path / "in", f"7_C5_{number}", number)
    (tmp_path / "in" / "7_C5_1_yellow.png").unlink()
    store = Store.create(str(tmp_path / "atlas"))
    ingest_pictures(store, hpa(tmp_path / "in").manifest, FakeEncoder(), QUIET)
    assert "no file for the er channel" in store.lookup("rejects", "image", "reason")["7_C5_1"]


TABLE = {
    "filename": "/archive/7/7_C5_1_", "if_plate_id": "7", "position": "C5", "sample": "1", "status": "35",
    "locations": "Cytosol,Nuclear speckles", "antibody": "HPA005910", "ensembl_ids": "ENSG00000011007",
    "gene_names": "ELOA", "atlas_name": "U-2 OS",
}  # fmt: skip


def test_a_table_of_cellmaps_is_fetched_from_the_website_by_the_antibody_s_number(tmp_path):
    found = hpa(write_rows(tmp_path / "samples.csv", [TABLE, {**TABLE, "antibody": "CAB004201", "sample": "2"}]))
    assert found.layout == "fields"
    item = found.manifest.item(0)
    assert found.manifest.folder == "https://images.proteinatlas.org"
    assert item.row["nucleus"] == "5910/7_C5_1_blue.jpg"
    assert found.manifest.item(1).row["protein"] == "4201/7_C5_2_green.jpg"
    known = item.metadata
    assert (known["gene_symbol"], known["ensembl_id"], known["antibody"]) == ("ELOA", "ENSG00000011007", "HPA005910")
    assert (known["plate"], known["well"], known["fov"], known["cell_line"]) == ("7", "C5", "1", "U-2 OS")
    assert known["localization"] == ["Cytosol", "Nuclear speckles"]
    assert found.notes == []


def test_the_pictures_of_a_table_may_lie_in_a_folder_at_any_depth(tmp_path):
    write_field(tmp_path / "in" / "5910", "7_C5_1", 1, suffix="jpg", side=64)
    table = write_rows(tmp_path / "samples.csv", [TABLE, {**TABLE, "sample": "9"}])
    found = hpa(table, images=str(tmp_path / "in"))
    assert found.manifest.item(0).row["er"] == "5910/7_C5_1_yellow.jpg"
    with pytest.raises(BadImage, match="no file for the microtubules channel"):
        found.manifest.item(1).picture_id()


def test_an_id_such_as_kaggle_s_tells_plate_well_and_field(tmp_path):
    found = hpa(write_rows(tmp_path / "t.csv", [{"ID": "921_B9_1", "Cellline": "A-431", "Label": "16"}]), images=".")
    assert found.manifest.rows[0]["plate"] == "921"
    assert found.manifest.rows[0]["cell_line"] == "A-431"


def test_what_hpa_knows_of_a_gene_is_added_where_the_row_does_not_know_it(tmp_path):
    rows = [
        {**TABLE, "locations": "", "gene_names": ""},
        {**TABLE, "sample": "2"},
        {**TABLE, "sample": "3", "ensembl_ids": "ENSG00000011007,ENSG00000099999", "gene_names": "ELOA,ELOB"},
        {**TABLE, "sample": "4", "ensembl_ids": "", "gene_names": ""},
    ]
    known = {"Gene": "ENSG00000011007", "Gene name": "ELOA", "Reliability": "Supported", "Main location": "Nucleoplasm"}
    locations = write_rows(
        tmp_path / "subcellular_location.tsv", [{**known, "Additional location": "Cytosol;Nucleoli"}]
    )
    found = hpa(write_rows(tmp_path / "samples.csv", rows), locations=locations)
    first, second, several, nameless = (found.manifest.item(i).metadata for i in range(4))
    assert (first["gene_symbol"], first["localization"]) == ("ELOA", ["Nucleoplasm", "Cytosol", "Nucleoli"])
    assert second["localization"] == ["Cytosol", "Nuclear speckles"]
    assert json.loads(first["extra"])["reliability"] == "Supported"
    assert several["ensembl_id"] == "ENSG00000011007,ENSG00000099999"
    assert nameless["gene_symbol"] is None
    assert any("1 of 4 pictures are of antibodies of several genes" in note for note in found.notes)
    assert any("1 of 4 pictures name no gene" in note for note in found.notes)


def test_cells_of_an_antibody_of_several_genes_belong_to_no_protein(tmp_path):
    write_field(tmp_path / "in", "7_C5_1", 1, side=64)
    rows = [{**TABLE, "ensembl_ids": "ENSG1,ENSG2", "gene_names": "A,B"}]
    found = hpa(write_rows(tmp_path / "samples.csv", rows), images=str(tmp_path / "in"))
    Image.fromarray(np.pad(np.ones((40, 40), np.uint8), 12)).save(tmp_path / "in" / "mask.png")
    found.manifest.rows[0]["mask"] = "mask.png"
    (cell,) = stored(tmp_path, found).values()
    assert (cell["protein_id"], cell["gene_symbol"]) == (None, "A,B")


# SubCell's crops


def write_crop(folder: Path, plate: str, stem: str, seed: int, *, depth=np.uint16) -> dict[str, np.ndarray]:
    """Write a crop as SubCell's authors did: cv2.imwrite of MT, ER, DNA, protein, which puts B G R A as R G B A."""
    planes = draw_cell(seed, side=64)
    scale = 257 if depth == np.uint16 else 1
    as_opencv = np.stack([planes[name].astype(depth) * scale for name in CHANNELS], axis=-1)
    in_file = as_opencv[..., [2, 1, 0, 3]]
    (folder / plate).mkdir(parents=True, exist_ok=True)
    (folder / plate / f"{stem}_cell_image.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(in_file)))
    mask = np.pad(np.ones((40, 40), np.uint8) * 255, 12)
    Image.fromarray(mask).save(folder / plate / f"{stem}_cell_mask.png")
    return planes


CROP = {
    "": "0", "cell_id": "12.0", "x1": "0", "y1": "0", "x2": "64", "y2": "64", "if_plate_id": "7", "position": "C5",
    "sample": "1", "atlas_name": "U-2 OS", "antibody": "HPA005910", "ensembl_ids": "ENSG00000011007",
    "gene_names": "ELOA", "locations": "Cytosol,Nucleoli",
}  # fmt: skip


@pytest.mark.parametrize("depth", [np.uint16, np.uint8])
def test_subcells_crops_are_read_in_the_order_their_authors_meant(tmp_path, depth):
    """A reader of R G B A that took its order for SubCell's would exchange nucleus and microtubules."""
    folder = tmp_path / "cell_crops"
    planes = write_crop(folder, "7", "7_C5_1_12", 5, depth=depth)
    write_rows(folder / "metadata.csv", [CROP])
    for source in (folder, folder / "metadata.csv"):
        found = hpa(source)
        assert (found.layout, found.manifest.is_crops) == ("crops", True)
        item = found.manifest.item(0)
        item.picture_id()
        picture = item.load()
        for name in CHANNELS:
            np.testing.assert_array_equal(
                picture.channels[name], planes[name].astype(depth) * (257 if depth == np.uint16 else 1)
            )
    (cell,) = stored(tmp_path, hpa(folder)).values()
    assert cell["image_id"] == "7_C5_1_12"
    assert (cell["plate"], cell["well"], cell["fov"], cell["cell_line"]) == ("7", "C5", "1", "U-2 OS")
    assert (cell["mask_source"], cell["localization"]) == ("given", ["Cytosol", "Nucleoli"])


def test_crops_in_s3_are_read_like_those_of_a_folder(tmp_path, monkeypatch):
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    from ingest import addresses

    write_crop(tmp_path / "cell_crops", "7", "7_C5_1_12", 5)
    write_rows(tmp_path / "cell_crops" / "metadata.csv", [CROP, {**CROP, "cell_id": "13"}])
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in (
        ("ENDPOINT_URL", endpoint),
        ("ACCESS_KEY_ID", "k"),
        ("SECRET_ACCESS_KEY", "s"),
        ("REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    addresses.s3_of.cache_clear()
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="hpa")
    for path in (tmp_path / "cell_crops").rglob("*.*"):
        key = f"cell_crops/{path.relative_to(tmp_path / 'cell_crops').as_posix()}"
        client.put_object(Bucket="hpa", Key=key, Body=path.read_bytes())
    try:
        found = hpa("s3://hpa/cell_crops")
        assert len(found.manifest) == 2
        assert list(stored(tmp_path, found)) == ["7_C5_1_12"]
        reasons = Store.open(str(tmp_path / "atlas")).lookup("rejects", "image", "reason")
        assert "the file is missing" in reasons["7_C5_1_13"]
    finally:
        server.stop()
        addresses.s3_of.cache_clear()


@pytest.mark.parametrize("n_channels", [3, 4])
def test_deep_pngs_of_several_channels_keep_their_sixteen_bits(n_channels):
    picture = np.random.default_rng(0).integers(0, 2**16, (20, 30, n_channels)).astype(np.uint16)
    read = decode_channels(imagecodecs.png_encode(picture), "a.png")
    np.testing.assert_array_equal(read, np.moveaxis(picture, -1, 0))


@pytest.mark.parametrize("keep", [24, 26, 60, 400])
def test_damaged_deep_pngs_are_bad_images(keep):
    content = imagecodecs.png_encode(np.random.default_rng(0).integers(0, 2**16, (20, 30, 4)).astype(np.uint16))
    with pytest.raises(BadImage, match="cannot be decoded"):
        decode_channels(content[:keep], "a.png")
    bomb = content[:16] + struct.pack(">II", 60_000, 60_000) + content[24:]
    with pytest.raises(BadImage, match="more than the limit"):
        decode_channels(bomb, "a.png")


# the others


def test_subcellportables_list_is_read_and_its_commented_rows_are_left_out(tmp_path):
    for channel, plane in draw_cell(3).items():
        Image.fromarray(plane).save(tmp_path / f"{channel}.png")
    row = "microtubules.png,er.png,nucleus.png,protein.png"
    (tmp_path / "path_list.csv").write_text(
        f"#r_image,y_image,b_image,g_image,output_folder,output_prefix\n{row},out,cell_1\n#{row},out,cell_2\n{row},out,cell_3\n"
    )
    found = hpa(tmp_path / "path_list.csv")
    assert (found.layout, found.manifest.is_crops) == ("portable", True)
    assert [item["image_id"] for item in found.manifest.rows] == ["out/cell_1", "out/cell_3"]
    cells = stored(tmp_path, found)
    assert cells["out/cell_1"]["embedding"] == pytest.approx(
        [plane.mean() for plane in draw_cell(3).values()], abs=1e-4
    )


def test_opencells_projections_are_nucleus_and_protein(tmp_path):
    planes = draw_cell(4, side=96)
    folder = tmp_path / "raw" / "ACTB_ENSG00000075624"
    folder.mkdir(parents=True)
    name = "OC-FOV_ACTB_ENSG00000075624_CID000829_FID00007690"
    picture = np.stack([planes["nucleus"], planes["protein"]]).astype(np.uint16) * 100
    for kind in ("proj", "stack"):
        tifffile.imwrite(folder / f"{name}_{kind}.tif", picture, imagej=True, metadata={"axes": "CYX"})
    found = read_hpa(str(tmp_path / "raw"), channels=("nucleus", "protein"))
    assert (found.layout, len(found.manifest)) == ("opencell", 1)
    item = found.manifest.item(0)
    item.picture_id()
    loaded = item.load()
    np.testing.assert_array_equal(loaded.channels["protein"], picture[1])
    assert loaded.pixel_size_um == pytest.approx(0.206349)
    assert (item.metadata["gene_symbol"], item.metadata["ensembl_id"]) == ("ACTB", "ENSG00000075624")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: f, "has no picture of the layout"),
        (lambda f: f / "absent.csv", "There is no manifest"),
        (lambda f: write_rows(f / "t.csv", [{"a": "1"}]), "of no layout that is known; its columns: a"),
        (lambda f: write_rows(f / "t.csv", [{"r_image": "#x", "b_image": "", "g_image": ""}]), "has no picture"),
    ],
)
def test_what_is_no_layout_is_refused_with_those_that_are(tmp_path, make, said):
    with pytest.raises(BadInput, match=said):
        hpa(make(tmp_path))


def test_another_table_than_hpa_s_locations_is_refused(tmp_path):
    write_field(tmp_path / "in", "7_C5_1", 1)
    with pytest.raises(BadInput, match=r"is not HPA's subcellular_location.tsv; its columns: a"):
        hpa(tmp_path / "in", locations=write_rows(tmp_path / "l.tsv", [{"a": "1", "b": "2"}]))


def test_real_fields_become_cells_by_the_command(tmp_path, real_data):
    source = real_data / "cm4ai_fields" / "C1_USP7"
    command = ["ingest", "hpa", str(source), "--encoder", "demo", "--atlas", str(tmp_path / "a")]
    dry = CliRunner().invoke(main, [*command, "--dry-run"])
    assert (dry.exit_code, "2 pictures." in dry.stdout) == (0, True)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "2 pictures of the layout 'fields'" in result.stderr
    cells = Store.open(str(tmp_path / "a")).read("cells", ["condition", "well", "fov"]).to_pylist()
    assert len(cells) > 3
    assert {(cell["condition"], cell["well"], cell["fov"]) for cell in cells} <= {
        ("Paclitaxel", "C1", "R1_z01"), ("Paclitaxel", "C1", "R2_z01"),
    }  # fmt: skip


def test_a_real_table_and_real_locations_are_joined(real_data):
    tables = real_data / "hpa_tables"
    found = hpa(tables / "cellmaps_samples.csv", locations=tables / "subcellular_location_2022.tsv")
    assert found.manifest.rows[0]["nucleus"] == "5910/7_C5_1_blue.jpg"
    assert found.manifest.rows[0]["reliability"]
