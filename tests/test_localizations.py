"""The 31 classes and their coarse groups, as tables write them."""

from __future__ import annotations

import csv

from subcell_atlas.encoders.localizations import COARSE_GROUPS, LOCALIZATIONS, coarse_group, standard_localization


def test_a_class_is_known_whatever_its_letters_and_spaces():
    assert standard_localization("Cell junctions") == "Cell Junctions"
    assert standard_localization(" Golgi  Apparatus ") == "Golgi apparatus"
    assert standard_localization("Kinetochore") is None
    assert all(standard_localization(name.upper()) == name for name in LOCALIZATIONS)


def test_a_class_is_in_one_coarse_group_at_most():
    names = [name for group in COARSE_GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    assert set(names) - set(LOCALIZATIONS) == {"Microtubule ends"}
    assert coarse_group("nuclear Membrane") == "Nucleus"
    assert coarse_group("Midbody") is None


def test_coarse_groups_are_those_of_subcells_table(real_data):
    with (real_data / "hpa_tables" / "location_group_mapping.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["Original annotation"]: row["Grouping 3"] or None for row in rows} == {
        row["Original annotation"]: coarse_group(row["Original annotation"]) for row in rows
    }


def test_nearly_all_that_hpa_writes_is_one_of_the_classes(real_data):
    with (real_data / "hpa_tables" / "subcellular_location_2022.tsv").open(newline="") as file:
        names = [
            name
            for row in csv.DictReader(file, delimiter="\t")
            for column in ("Main location", "Additional location")
            for name in row[column].split(";")
            if name
        ]
    others = {name for name in names if standard_localization(name) is None}
    assert others == {"Cleavage furrow", "Kinetochore", "Microtubule ends", "Midbody ring", "Rods & Rings"}
    assert sum(name in others for name in names) / len(names) < 0.005
