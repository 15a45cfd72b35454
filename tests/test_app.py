"""The app, run without a browser: each page on a small atlas, and on the atlases that lack something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from subcell_atlas import function_query, open_atlas, query
from subcell_atlas.build import MapSettings, build
from subcell_atlas.export import export
from subcell_atlas.pages import functions, map_tools, names, parts, pictures, scatter
from subcell_atlas.store import Store

APP = Path(__file__).parents[1] / "app.py"
PAGES = {
    "search": None,
    **{name: f"subcell_atlas/pages/{name}.py" for name in ("protein", "map", "functions", "sql", "about")},
}
HOSTILE = ["<b>BOLD</b>", "![x](http://picture.invalid/x.png)", ":red[R] <script>", "A_b_c"]


@pytest.fixture
def open_page(monkeypatch):
    """Run a page of the app on an atlas, with what its address says."""

    def open_(uri: str, page: str = "search", **address: str | list[str]) -> AppTest:
        monkeypatch.setenv("SUBCELL_ATLAS", uri)
        app = AppTest.from_file(APP, default_timeout=30)
        if PAGES[page]:
            app.run()
            app.switch_page(PAGES[page])
        app.query_params.clear()
        app.query_params.update(address)
        return checked(app.run())

    return open_


def code_of(app: AppTest) -> str:
    """Open what offers the answer as Python; return that."""
    app.session_state["snippets"] = True
    return str(checked(app.run()).code[0].value)


def checked(app: AppTest) -> AppTest:
    """Return a run app that showed no traceback."""
    assert not app.exception, [exception.message for exception in app.exception]
    return app


@pytest.fixture(scope="module")
def hostile_atlas(tmp_path_factory) -> str:
    """Four proteins from ready-made vectors, a map in which S3 has two parents, and names full of markup."""
    store = Store.create(str(tmp_path_factory.mktemp("hostile") / "atlas"))
    write_proteins(store, HOSTILE)
    systems = {
        "system_id": ["S0", "S1", "S2", "S3"],
        "level": pa.array([0, 1, 1, 2], pa.int32()),
        "size": pa.array([4, 3, 3, 2], pa.int32()),
        "persistence": pa.array([9, 8, 7, 6], pa.int32()),
        "term_id": [None, "GO:1", "GO:2", None],
        "term_name": [None, "<i>place</i>", "*other*", None],
        "p_adjusted": [None, 1e-5, 0.01, None],
    }
    edges = {"parent_id": ["S0", "S0", "S1", "S2"], "child_id": ["S1", "S2", "S3", "S3"]}
    members = {"S0": [0, 1, 2, 3], "S1": [0, 1, 2], "S2": [1, 2, 3], "S3": [1, 2]}
    pairs = [(system, f"P{row}") for system, rows in members.items() for row in rows]
    store.write("systems", pa.table(systems))
    store.write("system_edges", pa.table({**edges, "overlap": pa.array([1, 1, 1, 0.8], pa.float32())}))
    store.write(
        "system_members", pa.table(dict(zip(("system_id", "protein_id"), zip(*pairs, strict=True), strict=True)))
    )
    return store.uri


def write_proteins(store: Store, symbols: list[str]) -> None:
    """Write proteins P0, P1, … with unit vectors that lean to one corner, so that all pairs are equally alike."""
    vectors = np.eye(len(symbols), dtype=np.float32) + 0.1
    columns = {
        "protein_id": [f"P{row}" for row in range(len(symbols))],
        "gene_symbol": symbols,
        "localization": [["<i>Cytosol</i>"]] * len(symbols),
        "n_cells": pa.array([3] * len(symbols), pa.int32()),
        "image": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), len(symbols)),
    }
    store.write("proteins", pa.table(columns))


def buttons(app: AppTest, kind: str) -> list[Button]:
    """Return the buttons of a kind, which their keys begin with."""
    return [button for button in app.button if (button.key or "").startswith(f"{kind}_")]


def hit_names(app: AppTest) -> list[str]:
    """Return the names on the cards, in order."""
    return [card["name"] for card in cards_of(app) if card["name"]]


def cards_of(app: AppTest) -> list[dict[str, str]]:
    """Return the cards of a page: pictures with what is said of them."""
    protos = [element.proto for element in app.get("bidi_component")]
    return [card for proto in protos if proto.json for card in json.loads(proto.json).get("cards", ())]


def texts(app: AppTest) -> str:
    """Return every piece of Markdown of a page."""
    kinds = (app.markdown, app.caption, app.subheader, app.warning, app.error, app.info)
    return "\n".join(element.value for kind in kinds for element in kind)


def unmarked(text: str) -> str:
    return text.removeprefix("**").removesuffix("**").replace("\\", "")


def pictures_of(app: AppTest) -> set[str]:
    """Return the pictures on the cards."""
    return {card["picture"] for card in cards_of(app)}


def figure_of(app: AppTest) -> go.Figure:
    """Return the first Plotly chart of a page."""
    return go.Figure(json.loads(app.get("plotly_chart")[0].proto.spec))


def test_a_search_shows_the_hits_of_query_similar(open_page, demo_atlas):
    expected = query.similar(Store.open(demo_atlas), ["DEMO003"], k=7)["gene_symbol"].to_pylist()
    app = open_page(demo_atlas, gene="DEMO003", k="7")
    assert hit_names(app) == expected
    assert len(cards_of(app)) == 4 + 7  # the four cells of the query, a strip for each hit


def test_a_search_takes_ids_any_case_and_several_genes(open_page, demo_atlas):
    expected = query.similar(Store.open(demo_atlas), ["DEMO003", "DEMO010"], k=12)["gene_symbol"].to_pylist()
    app = open_page(demo_atlas, gene=["demo003", "DEMOP010"])
    assert hit_names(app) == expected


def test_the_filters_of_the_address_reach_the_query(open_page, demo_atlas):
    store = Store.open(demo_atlas)
    label = store.read("proteins", ["localization"])["localization"][5].as_py()[0]
    line = store.read("profiles", ["cell_line"])["cell_line"][0].as_py()
    where = f"array_has(localization, '{label}')"
    expected = query.similar(store, ["DEMO003"], k=12, where=where, cell_line=line)["gene_symbol"].to_pylist()
    app = open_page(demo_atlas, gene="DEMO003", localization=label, cell_line=line)
    assert 0 < len(expected) < 12
    assert hit_names(app) == expected
    assert f"cell_line='{line}'" in code_of(app)


def test_an_unknown_gene_is_told_and_the_known_one_still_answered(open_page, demo_atlas):
    app = open_page(demo_atlas, gene=["DEMO003", "DEMO00"])
    assert "Unknown gene" in app.warning[0].value
    assert len(hit_names(app)) == 12
    suggestion = buttons(app, "instead")[0]
    app = checked(suggestion.click().run())
    assert not app.warning
    assert app.query_params["gene"] == ["DEMO003", suggestion.label]


def test_channels_left_out_change_the_pictures_and_the_address(open_page, demo_atlas):
    app = open_page(demo_atlas, gene="DEMO003")
    before = pictures_of(app)
    app = checked(app.button_group(key="channel_switches").set_value(["protein"]).run())
    after = pictures_of(app)
    assert app.query_params["channels"] == "protein"
    assert len(before) == len(after) == 4 + 12
    assert not before & after


@pytest.fixture
def without_javascript(monkeypatch):
    """The app as it is where the package was built without the JavaScript of others."""
    monkeypatch.setattr(scatter, "LIBRARIES", ("none",))
    monkeypatch.setattr(names, "LIBRARY", "none")


@pytest.mark.usefixtures("without_javascript")
def test_an_empty_search_offers_examples_and_the_overview(open_page, demo_atlas):
    app = open_page(demo_atlas)
    shown = sum(len(trace.x) for trace in figure_of(app).data)
    assert shown == 40
    example = buttons(app, "begin")[0]
    assert len(hit_names(checked(example.click().run()))) == 12


@pytest.mark.usefixtures("without_javascript")
@pytest.mark.parametrize(
    ("page", "key", "given", "taken"),
    [
        ("search", "gene", ["DEMO003", "demo004"], ["DEMO003", "demo004"]),
        ("protein", "name", ["DEMO005"], ["DEMO005"]),
        ("search", "gene", [], []),
    ],
)
def test_names_are_asked_by_streamlits_own_list_and_kept_in_the_address(open_page, demo_atlas, page, key, given, taken):
    app = open_page(demo_atlas, page, **{key: "DEMO001"})
    assert app.multiselect(key=f"{key}_asked").value == ["DEMO001"]
    app = checked(app.multiselect(key=f"{key}_asked").set_value(given).run())
    assert np.atleast_1d(app.query_params.get(key, [])).tolist() == taken
    assert app.multiselect(key=f"{key}_asked").value == taken
    if page == "search":
        assert len(hit_names(app)) == (12 if given else 0)
    else:
        assert "DEMO005" in [heading.value for heading in app.subheader]


@pytest.mark.usefixtures("without_javascript")
def test_the_overview_marks_query_and_hits(open_page, demo_atlas):
    traces = {trace.name: trace for trace in figure_of(open_page(demo_atlas, gene="DEMO003", k="5")).data}
    assert len(traces["query"].x) == 1
    assert len(traces["neighbors"].x) == 5


def test_many_hits_are_shown_in_turns(open_page, demo_atlas):
    expected = query.similar(Store.open(demo_atlas), ["DEMO003"], k=30)["gene_symbol"].to_pylist()
    assert hit_names(open_page(demo_atlas, gene="DEMO003", k="30")) == expected[:24]


def test_no_hit_under_the_conditions_is_said(open_page, hostile_atlas):
    app = open_page(hostile_atlas, gene="A_b_c", localization="<i>Cytosol</i>")
    assert len(hit_names(app)) == 3
    app = open_page(hostile_atlas, gene=HOSTILE)
    assert not hit_names(app)
    assert "No other protein" in app.info[0].value


def test_markup_in_names_is_shown_as_text(open_page, hostile_atlas):
    app = open_page(hostile_atlas, gene=[HOSTILE[0], "x<script>"])
    assert set(hit_names(app)) == set(HOSTILE[1:])
    assert parts.plain(HOSTILE[0]) in [subheader.value for subheader in app.subheader]
    for name in (*HOSTILE[:3], "<script>", "<i>"):
        assert name not in texts(app)
        assert name not in "\n".join(button.label for button in app.button)
    assert not any(element.proto.allow_html for element in app.markdown)
    assert "No pictures" in texts(app)


def test_plain_text_keeps_every_character():
    assert parts.plain("a<b>*_[]:$") == r"a\<b\>\*\_\[\]\:\$"
    assert parts.plain("two\nlines") == "two lines"


def test_the_map_begins_at_the_root(open_page, demo_atlas):
    graph = query.map_graph(Store.open(demo_atlas))
    app = open_page(demo_atlas, "map")
    children = {button.key.removeprefix("child_") for button in buttons(app, "child")}
    assert children == set(graph.successors("S0"))
    assert len(app.dataframe[0].value) == graph.nodes["S0"]["size"]


def test_the_address_opens_a_system_and_a_button_goes_on(open_page, demo_atlas):
    store = Store.open(demo_atlas)
    graph = query.map_graph(store)
    system = next(s for s in graph if graph.nodes[s]["level"] == 1 and graph.out_degree(s))
    app = open_page(demo_atlas, "map", system=system)
    assert list(app.dataframe[0].value["name"]) == query.system_members(store, system)["gene_symbol"].to_pylist()
    child = buttons(app, "child")[0]
    app = checked(child.click().run())
    assert app.query_params["system"] == child.key.removeprefix("child_")
    assert figure_of(app).data[0].level.split("/")[-1] == system  # the parent stays in sight


def test_a_step_down_shows_the_way_back(open_page, demo_atlas):
    app = open_page(demo_atlas, "map")
    app = checked(buttons(app, "child")[0].click().run())
    assert [button.key for button in buttons(app, "crumb")] == ["crumb_S0"]


def test_a_system_with_two_parents_stands_under_both(open_page, hostile_atlas):
    app = open_page(hostile_atlas, "map", system="S3")
    icicle = figure_of(app).data[0]
    assert {place for place in icicle.ids if place.endswith("S3")} == {"S0/S1/S3", "S0/S2/S3"}
    assert {button.key for button in buttons(app, "parent")} == {
        "parent_S1",
        "parent_S2",
    }
    assert "<i>" not in texts(app)
    assert "<i>" not in "".join(icicle.labels)


def test_the_places_under_a_system_fit_into_it(open_page, hostile_atlas):
    icicle = figure_of(open_page(hostile_atlas, "map")).data[0]
    width = dict(zip(icicle.ids, icicle.values, strict=True))
    for place in icicle.ids:
        inside = sum(width[i] for i, parent in zip(icicle.ids, icicle.parents, strict=True) if parent == place)
        assert inside <= width[place] + 1e-9  # else Plotly draws nothing


def test_a_gene_is_found_in_the_map(open_page, demo_atlas):
    _, paths = query.paths_of(Store.open(demo_atlas), "DEMO007")
    app = open_page(demo_atlas, "map")
    app = checked(app.selectbox(key="find").set_value("DEMO007").run())
    steps = buttons(app, "path")
    assert len(steps) == sum(map(len, paths))
    assert app.query_params["system"] == paths[0][-1]


def test_unknown_names_on_the_map_are_told(open_page, demo_atlas):
    app = open_page(demo_atlas, "map", system="S999", find="TOMM20")
    assert "Unknown gene" in app.warning[0].value
    assert "Unknown system" in app.warning[1].value
    assert len(app.dataframe[0].value) == 40


def test_sql_of_the_address_is_answered(open_page, demo_atlas):
    app = open_page(demo_atlas, "sql", sql="SELECT gene_symbol, n_cells FROM proteins ORDER BY 1 LIMIT 3")
    assert list(app.dataframe[0].value["gene_symbol"]) == ["DEMO001", "DEMO002", "DEMO003"]
    assert "**3 rows**" in texts(app)
    assert len(figure_of(app).data[0].x) == 3
    app.text_area(key="sql").set_value("DELETE FROM proteins")
    app = checked(run_query(app))
    assert "DELETE" in app.error[0].value
    assert not app.dataframe


def run_query(app: AppTest) -> AppTest:
    """Press Run."""
    return next(button for button in app.button if button.label == "Run").click().run()


def test_a_query_that_takes_long_can_be_cancelled(open_page, demo_atlas):
    slow = "SELECT count(*) FROM range(100000000000) a, range(100000) b"
    app = open_page(demo_atlas, "sql", sql="SELECT 1 AS one")
    app.text_area(key="sql").set_value(slow)
    app = checked(app.button[[button.label for button in app.button].index("Run")].click().run())
    assert "Asking…" in texts(app)
    app = checked(app.button(key="cancel").click().run())
    assert "cancelled" in app.error[0].value
    app.text_area(key="sql").set_value("SELECT 2 AS two")
    app = checked(app.button[[button.label for button in app.button].index("Run")].click().run())
    assert app.dataframe[0].value["two"].tolist() == [2]


def test_a_long_answer_says_that_it_is_cut_and_vectors_are_shown(open_page, demo_atlas):
    app = open_page(demo_atlas, "sql", sql="SELECT * FROM range(20000)")
    assert "**10,000 rows**" in texts(app)
    assert "only the first" in texts(app)
    app.text_area(key="sql").set_value("SELECT thumbnail, embedding FROM cells LIMIT 2")
    app = checked(run_query(app))
    assert app.dataframe[0].value["thumbnail"][0].endswith(" bytes")


def test_every_example_query_can_be_answered(open_page, demo_atlas):
    app = open_page(demo_atlas, "sql")
    for key in [button.key for button in buttons(app, "example")]:
        app = checked(app.button(key=key).click().run())
        assert not app.error, app.error[0].value
        assert len(app.dataframe[0].value) > 0


@pytest.mark.parametrize("page", PAGES)
def test_without_an_atlas_every_page_says_how_to_make_one(open_page, tmp_path, page):
    app = open_page(str(tmp_path / "none"), page)
    assert "There is no atlas" in app.info[0].value
    assert "subcell-atlas demo --atlas" in code_of(app)


def test_before_the_build_search_and_map_say_what_to_run(open_page, tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    store.write("cells", pa.table({"cell_id": ["a"], "protein_id": ["P0"]}))
    for page in ("search", "map"):
        assert app_command(open_page(store.uri, page)) == "subcell-atlas build"
    assert list(open_page(store.uri, "sql").dataframe[0].value.iloc[:, 0]) == ["cells"]


def test_without_a_map_the_map_page_says_what_to_run(open_page, tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    write_proteins(store, ["A", "B", "C"])
    assert app_command(open_page(store.uri, "map")) == "subcell-atlas build map"
    assert set(hit_names(open_page(store.uri, gene="a"))) == {"B", "C"}


def app_command(app: AppTest) -> str:
    """Return the command that a page tells to run, without the atlas."""
    return code_of(app).split(" --atlas")[0]


def test_a_rebuilt_atlas_is_read_anew(open_page, tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    write_proteins(store, ["A", "B", "C"])
    assert len(hit_names(open_page(store.uri, gene="A"))) == 2
    write_proteins(store, ["A", "B", "C", "D", "E"])
    assert len(hit_names(open_page(store.uri, gene="A"))) == 4


def test_csv_joins_lists():
    table = pa.table({"name": ["a", None], "places": [["x", "y"], None], "picture": [b"1234", None]})
    assert parts.csv_of(table).decode().splitlines() == ['"name","places","picture"', '"a","x;y","4 bytes"', ",,"]


def test_a_thumbnail_without_known_channels_is_shown_gray(open_page, demo_atlas):
    from subcell_atlas.pages.reading import read_cells

    cells = read_cells(Store.open(demo_atlas), ("DEMOG00000000001",), n=2)["DEMOG00000000001"]
    gray = pictures.whole_view(["a", "b", "c", "d"]).picture(cells)
    assert gray.startswith(b"\xff\xd8")
    assert gray != pictures.whole_view(["microtubules", "er", "nucleus", "protein"]).picture(cells)


def test_another_map_of_the_atlas_can_be_chosen_and_has_its_address(open_page, demo_atlas, tmp_path):
    shutil.copytree(demo_atlas, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    build(store, ["map"], map_settings=MapSettings(name="tree", method="average", tested=False))
    app = open_page(store.uri, "map")
    assert [box.options for box in app.selectbox if box.label == "Map"] == [["main", "tree"]]
    app = checked(app.selectbox(key="compare_with").set_value("tree").run())
    compared = next(frame.value for frame in app.dataframe if "jaccard" in frame.value)
    expected = open_atlas(store.uri).compare_map("tree")
    assert set(compared["system"]) == {row["system"] for row in expected["here"]["systems"]}
    assert f"{expected['n_common']} proteins in both" in texts(app)
    app = open_page(store.uri, "map", system="tree:S1")
    assert not app.exception
    assert not app.error
    assert any(path.split("/")[-1] == "tree:S1" for path in figure_of(app).data[0].ids)


def table_of(app: AppTest, number: int = 0) -> list[dict]:
    """Return the rows of a table of a page."""
    return app.dataframe[number].value.to_dict("records")


def test_the_functions_of_a_gene_are_those_of_the_query_the_predicted_before_the_known(open_page, function_atlas):
    rows = function_query.functions_of_gene(Store.open(function_atlas), "P003", k=25).to_pylist()
    app = open_page(function_atlas, "functions", genes="p003")
    for number, known in enumerate((False, True)):
        wanted = [row for row in rows if row["annotated"] is known]
        shown = table_of(app, number)
        assert [row["function"] for row in shown] == [row["name"] for row in wanted]
        for name in ("probability", "image", "sequence", "fused"):
            own = np.array([row[name] for row in wanted], float)
            assert np.array([row[name] for row in shown], float) == pytest.approx(own, nan_ok=True)
    best = next(row for row in rows if not row["annotated"])
    assert f"Why **{parts.plain(best['name'])}**?" in texts(app)
    near = {each["protein_id"] for each in best["support"]}
    assert {unmarked(button.label) for button in buttons(app, "cell")} == {"P003", *near}
    assert "composition" in texts(app)
    assert "atlas.functions('p003'" in code_of(app)


def test_a_function_that_is_chosen_is_asked_for_and_so_is_a_gene_of_it(open_page, function_atlas):
    app = open_page(function_atlas, "functions", genes="P003")
    known = table_of(app, 1)[0]["function"]
    app = checked(app.button(key="known_function").click().run())
    assert app.query_params["ask"] == "Function"
    assert known in [heading.value for heading in app.subheader]
    name = unmarked(buttons(app, "cell")[0].label)
    app = checked(app.button(key=f"cell_{name}").click().run())
    assert [heading.value for heading in app.subheader] == [name]
    assert app.query_params["genes"] == name


def test_the_genes_of_a_term_are_those_of_the_query(open_page, function_atlas):
    store = Store.open(function_atlas)
    rows = function_query.genes_of_term(store, "GO:C1", k=25).to_pylist()
    for asked in ("GO:C1", "nucleolus"):
        app = open_page(function_atlas, "functions", ask="Function", about=asked)
        for number, known in enumerate((False, True)):
            wanted = [row["protein_id"] for row in rows if row["annotated"] is known]
            assert [row["gene"] for row in table_of(app, number)] == wanted
        assert "average precision by picture" in texts(app)


def test_words_that_fit_several_terms_offer_the_others(open_page, function_atlas):
    app = open_page(function_atlas, "functions", ask="Function", about="activity")
    first = app.subheader[0].value
    others = buttons(app, "or")
    assert len(others) >= 2
    app = checked(others[0].click().run())
    assert app.subheader[0].value != first
    assert not buttons(app, "or")


def test_what_genes_share_is_that_of_the_query(open_page, function_atlas):
    rows = function_query.shared_functions(Store.open(function_atlas), ["P003", "P004"], k=25).to_pylist()
    app = open_page(function_atlas, "functions", genes=["P003", "P004"])
    assert [row["function"] for row in table_of(app)] == [row["name"] for row in rows]
    assert [row["known"] for row in table_of(app)] == [f"{row['n_known']} of {row['n_genes']}" for row in rows]


def test_a_sequence_is_told_what_it_may_do_and_where_it_may_go(open_page, demo_atlas):
    residues = Store.open(demo_atlas).read("proteins", ["amino_acids"])["amino_acids"][4].as_py()
    app = open_page(demo_atlas, "functions", ask="Sequence")
    app.text_area(key="sequence").set_value(f">mine\n{residues}")
    app = checked(app.button[0].click().run())
    with open_atlas(demo_atlas) as atlas:
        rows = atlas.functions(sequence=residues, k=25).to_pylist()
        places = atlas.similar_to_sequence(residues, k=8, modality="image")["protein_id"].to_pylist()
    assert [row["function"] for row in table_of(app)] == [row["name"] for row in rows]
    assert "image" not in table_of(app)[0]
    assert "The picture is a guess" in texts(app)
    assert set(places) <= {button.key.removeprefix("place_") for button in buttons(app, "place")}


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ({"genes": "P03"}, "Unknown gene"),
        ({"ask": "Function", "about": "mitochondrin"}, "Unknown function"),
        ({"ask": "Function", "about": "cilium"}, "not predicted"),
    ],
)
def test_questions_without_an_answer_are_told_with_what_is_near(open_page, function_atlas, address, told):
    app = open_page(function_atlas, "functions", **address)
    assert told in texts(app).replace("\\", "")
    if nearest := buttons(app, "instead"):
        app = checked(nearest[0].click().run())
        assert app.dataframe


def test_a_sequence_that_is_none_is_told(open_page, function_atlas, demo_atlas):
    for uri, text, told in ((demo_atlas, "MK1", "no residues"), (demo_atlas, "ACGT" * 10, "nucleotides")):
        app = open_page(uri, "functions", ask="Sequence")
        app.text_area(key="sequence").set_value(text)
        app = checked(app.button[0].click().run())
        assert told in app.error[0].value


def test_without_functions_their_page_says_what_to_run(open_page, hostile_atlas):
    assert app_command(open_page(hostile_atlas, "functions")) == "subcell-atlas annotate FILE"


def test_an_empty_question_offers_functions(open_page, function_atlas):
    app = open_page(function_atlas, "functions")
    app = checked(buttons(app, "begin")[0].click().run())
    assert len(app.dataframe) == 2


def test_likeness_by_sequence_says_that_a_stand_in_made_the_vectors(open_page, demo_atlas):
    for modality, is_said in (("image", False), ("sequence", True), ("fused", True)):
        app = open_page(demo_atlas, gene="DEMO003", modality=modality)
        assert ("told by their composition" in texts(app)) is is_said


def test_a_term_that_nothing_tells_is_said_to_be_so():
    row = {"image": None, "sequence": None, "fused": None, "prior": 0.1, "support": []}
    assert functions.why(row).startswith("No modality tells it; 10.0% of proteins have it.")
    assert functions.why({**row, "image": 0.2}).startswith("By picture 0.20; 10.0% of proteins have it.")


def test_of_several_genes_the_odd_one_out_is_told(open_page, demo_atlas):
    store = Store.open(demo_atlas)
    near = query.similar(store, ["DEMO003"], k=2)["gene_symbol"].to_pylist()
    far = query.similar(store, ["DEMO003"], k=39)["gene_symbol"].to_pylist()[-1]
    app = open_page(demo_atlas, gene=["DEMO003", far, *near])
    assert f"The odd one out: **{far}**" in texts(app)
    assert "odd one" not in texts(open_page(demo_atlas, gene=["DEMO003", far]))


def test_the_page_of_a_protein_shows_its_profiles_place_and_functions(open_page, demo_atlas):
    store = Store.open(demo_atlas)
    protein = store.lookup("proteins", "gene_symbol", "protein_id")["DEMO003"]
    profiles = query.profiles_of(store, protein)
    app = open_page(demo_atlas, "protein", name="DEMO003")
    assert len(app.image) == profiles.num_rows
    for row in profiles.to_pylist():
        assert parts.plain(row["cell_line"]) in texts(app)
    compared = query.compare(store, "DEMO003", by="cell_line")
    pairs = next(frame.value for frame in app.dataframe if "percentile" in frame.value)
    assert pairs["similarity"].tolist() == compared["similarity"].to_pylist()
    known = next(frame.value for frame in app.dataframe if "Function" in frame.value)
    assert known["Function"].tolist() == open_atlas(demo_atlas).functions("DEMO003", k=8)["name"].to_pylist()
    assert any("proteinatlas.org/" + protein in link.url for link in app.get("link_button"))


def test_the_page_of_a_protein_tells_what_it_lacks(open_page, hostile_atlas):
    app = open_page(hostile_atlas, "protein", name=HOSTILE[0])
    for said in ("No cells of it", "there is nothing to compare", "tells no functions", "Nothing is predicted"):
        assert said in texts(app)
    app = open_page(hostile_atlas, "protein", name="A_b")
    assert "Unknown gene" in app.warning[0].value
    assert [unmarked(button.label) for button in buttons(app, "instead")] == ["A_b_c"]
    assert "Type a name" in texts(open_page(hostile_atlas, "protein"))


def test_a_map_in_a_file_is_compared_and_another_file_is_told_to_be_none(open_page, demo_atlas, tmp_path):
    export(Store.open(demo_atlas), tmp_path / "map.hcx", kind="hcx")
    app = open_page(demo_atlas, "map")
    file = ("map.hcx", (tmp_path / "map.hcx").read_bytes(), "application/json")
    app = checked(app.file_uploader(key="compare_file").set_value(file).run())
    same = next(frame.value for frame in app.dataframe if "jaccard" in frame.value)
    assert set(same["jaccard"]) == {1.0}
    bad = ("../../x.hcx", b"\x00\x01 no map", "application/json")
    app = checked(app.file_uploader(key="compare_file").set_value(bad).run())
    assert app.warning


@pytest.mark.parametrize(("kind", "suffix", "begins"), [("hcx", ".hcx", b"["), ("graphml", ".graphml", b"<?xml")])
def test_the_map_is_downloaded_as_the_command_exports_it(demo_atlas, kind, suffix, begins):
    content = map_tools.exported(Store.open(demo_atlas), "main", kind, suffix)
    assert content.startswith(begins)
    assert b"S1" in content
