"""Suite files, the ways prompts are written in, and CustomConcept101's own layout."""

from __future__ import annotations

import json

import pytest
import suite_made

from cdtool.errors import InputError, NotFoundError
from cdtool.research import customconcept101
from cdtool.research import suite as suitefile
from cdtool.research.suite import Cell, ConceptSpec, MethodSpec
from cdtool.tokens import parse_specs

TEXT = """
name = "two"
[train]
steps = 3
[[concept]]
name = "dog"
token = "V* dog"
photos = "photos/dog"
prompts = "one.txt"
[[concept]]
name = "gate"
token = "moongate"
photos = "photos/gate"
prompts = "one.txt"
[[pair]]
members = ["dog", "gate"]
prompts = "two.txt"
[[method]]
name = "Base"
mode = "base"
[[method]]
name = "Ours"
[[method]]
name = "Frozen"
freeze_token = true
[[method]]
name = "TI"
method = "textual-inversion"
[[composition]]
name = "Joint"
mode = "joint"
lr = 0.1
"""


def written(folder, text=TEXT):
    path = folder / "two.toml"
    path.write_text(text)
    return path


def test_a_suite_has_a_cell_for_every_row_that_applies(tmp_path):
    suite = suitefile.read(written(tmp_path))
    assert [cell.id for cell in suite.cells] == [
        "base.dog", "ours.dog", "frozen.dog", "ti.dog", "base.gate", "ours.gate", "joint.dog+gate",
    ]  # fmt: skip
    assert suite.methods[1].settings == {"steps": 3}
    assert suite.methods[0].settings == {}
    assert suite.compositions[0].settings == {"steps": 3, "lr": 0.1}
    assert suite.concepts[0].photos == tmp_path / "photos" / "dog"
    assert (
        suitefile.read(written(tmp_path), tmp_path / "elsewhere").concepts[0].prompts == tmp_path / "elsewhere/one.txt"
    )


def test_a_word_alone_is_learned_as_the_proxy_of_a_concept_without_a_modifier_token(tmp_path):
    suite = suitefile.read(
        written(tmp_path, TEXT.replace('token = "moongate"', 'token = "moongate"\nproxy = "V* gate"'))
    )
    gate, ti, ours = suite.concepts[1], suite.methods[3], suite.methods[1]
    assert "ti.gate" in [cell.id for cell in suite.cells]
    assert "frozen.gate" not in [cell.id for cell in suite.cells]
    assert (suitefile.spec(gate, ti), suitefile.spec(gate, ours)) == ("V* gate", "moongate")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('mode = "joint"', 'mode = "mixed"', "mixed"),
        ("lr = 0.1", "rate = 0.1", "rate"),
        ('method = "textual-inversion"', 'method = "textual"', "textual"),
        ('members = ["dog", "gate"]', 'members = ["dog", "cow"]', "cow"),
        ('name = "two"', "name = ", "cannot be read"),
        ('name = "two"', 'titel = "two"', "titel"),
    ],
)
def test_what_is_no_suite_is_told_in_a_sentence(tmp_path, old, new, told):
    assert old in TEXT
    with pytest.raises(InputError, match=told):
        suitefile.read(written(tmp_path, TEXT.replace(old, new)))


def test_a_pair_may_name_its_compositions_and_its_count(tmp_path):
    path = suite_made.write(tmp_path)
    own = suite_made.TEXT.replace(
        'prompts = "two.txt"', 'prompts = "two.txt"\ncompositions = ["Joint", "Merge"]\ncount = 3'
    )
    path.write_text(own)
    cells = [cell for cell in suitefile.read(path).cells if len(cell.concepts) > 1]
    assert [(cell.id, cell.count) for cell in cells] == [("merge.dog+cat", 3), ("joint.dog+cat", 3)]
    path.write_text(own.replace('"Merge"]', '"Blend"]'))
    with pytest.raises(InputError, match='dog and cat names the composition "Blend"'):
        suitefile.read(path)


def test_a_suite_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(NotFoundError) as told:
        suitefile.read(tmp_path / "none.toml")
    assert "customconcept101" in told.value.hint


@pytest.mark.parametrize("name", suitefile.SHIPPED)
def test_the_shipped_suites_are_whole(name):
    suite = suitefile.read(suitefile.SHIPPED[name])
    rows = {method.name for method in (*suite.methods, *suite.compositions)}
    assert suite.cells
    assert all(set(table.rows) <= rows for table in suite.tables)
    if name != "paper":
        assert suitefile.missing(suite, suite.cells) == []
    if name in ("paper", "mini"):
        assert (len(suite.concepts), len(suite.pairs)) == (10, 5)


@pytest.mark.parametrize(
    ("prompt", "specs", "made"),
    [
        ("a {} in the snow", ["V* dog"], "a {} in the snow"),
        ("a {0} on a {1}", ["V* dog", "V* cat"], "a {0} on a {1}"),
        ("Photo of <new1> wooden pot ", ["V* wooden pot"], "Photo of {0} "),
        ("<new1> plushies", ["V* plush"], "{0} plushies"),
        ("photo of a moongate", ["moongate"], "photo of a {0}"),
        ("a cat engraving on the wooden pot", ["V* wooden pot", "V* cat"], "a {1} engraving on the {0}"),
        ("a table and a table chair, tables", ["V* table", "V* table chair"], "a {0} and a {1}, tables"),
        ("nothing of the kind", ["V* dog"], "nothing of the kind"),
    ],
)
def test_prompts_of_the_papers_authors_name_their_tokens(prompt, specs, made):
    assert suitefile.template(prompt, parse_specs(specs)) == made


# ---------------------------------------------------------------- CustomConcept101


def entry(noun, folder, number=1, article="a "):
    return {
        "instance_prompt": f"photo of {article}<new{number}> {noun}",
        "class_prompt": noun,
        "instance_data_dir": f"./benchmark_dataset/{folder}",
        "class_data_dir": f"./regularization/{folder}",
        "prompt_filename": f"prompts/{noun.split()[0]}.txt",
    }


def shipped(folder, single, pairs):
    (folder / "dataset.json").write_text(json.dumps(single))
    (folder / "dataset_multiconcept.json").write_text(json.dumps(pairs))
    return folder


def test_customconcept101_is_read_as_its_authors_ship_it(tmp_path):
    single = [entry("sofa", "furniture_sofa1"), entry("sunglasses", "wearable_sunglasses2", article="")]
    pair = [entry("chair", "furniture_chair3"), entry("sofa", "furniture_chair3", 2),
            {"prompt_filename_compose": "prompts/furniture_furniture.txt"}]  # fmt: skip
    suite = customconcept101.read(shipped(tmp_path, single, [pair]))
    assert [(concept.name, concept.token) for concept in suite.concepts] == [
        ("furniture_sofa1", "V* sofa"),
        ("wearable_sunglasses2", "V* sunglasses"),
    ]
    assert suite.concepts[0].photos == tmp_path / "benchmark_dataset" / "furniture_sofa1"
    assert suite.concepts[1].prompts == tmp_path / "prompts" / "sunglasses.txt"
    assert [concept.name for concept in suite.pairs[0].members] == ["furniture_chair3", "furniture_chair3-sofa"]
    assert suite.pairs[0].prompts == tmp_path / "prompts" / "furniture_furniture.txt"
    assert "dino" in suite.metrics
    names = [cell.id for cell in suite.cells]
    assert "ours.furniture_sofa1" in names
    assert "optimization.furniture_chair3+furniture_chair3-sofa" in names


def test_what_customconcept101_lacks_is_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"dataset\.json") as told:
        customconcept101.read(tmp_path)
    assert "--data" in told.value.hint
    with pytest.raises(InputError, match="no concept"):
        customconcept101.read(shipped(tmp_path, [{"class_prompt": "dog"}], []))
    with pytest.raises(InputError, match="no pair"):
        customconcept101.read(shipped(tmp_path, [entry("dog", "dog")], [[entry("dog", "dog")]]))
    suite = customconcept101.read(shipped(tmp_path, [entry("dog", "pet_dog1")], []))
    assert suitefile.missing(suite, suite.cells) == [
        tmp_path / "benchmark_dataset" / "pet_dog1", tmp_path / "prompts" / "dog.txt",
    ]  # fmt: skip


def test_a_cells_name_is_a_files(tmp_path):
    concept = ConceptSpec("dog", "V* dog", tmp_path, tmp_path)
    assert Cell(MethodSpec("Ours w/o prior"), (concept, concept), tmp_path).id == "ours-w-o-prior.dog+dog"


def test_a_suite_file_with_the_old_keys_reads_the_same(tmp_path):
    old = TEXT.replace("[[composition]]", "[[way]]").replace("mode =", "way =")
    old = old.replace('prompts = "two.txt"', 'prompts = "two.txt"\nways = ["Joint"]')
    new = TEXT.replace('prompts = "two.txt"', 'prompts = "two.txt"\ncompositions = ["Joint"]')
    assert old.count("way") == 4
    assert suitefile.read(written(tmp_path, old)) == suitefile.read(written(tmp_path, new))


def test_mcpp_is_three_and_four_of_the_same_concepts(tmp_path):
    parts = [entry("chair", "chair1"), entry("sofa", "sofa1", 2), entry("dog", "dog1", 3), entry("cat", "cat1", 4)]
    prompts = {"prompt_filename_compose": "prompts/many.txt"}
    (tmp_path / "dataset_mcpp.json").write_text(json.dumps([[*parts[:3], prompts], [*parts, prompts]]))
    suite = customconcept101.read_mcpp(tmp_path)
    assert [len(group.members) for group in suite.pairs] == [3, 4]
    assert [concept.name for concept in suite.concepts] == ["chair1", "sofa1", "dog1", "cat1"]
    assert {"rank", "scr"} <= set(suite.metrics)
    assert "routed.chair1+sofa1+dog1+cat1" in [cell.id for cell in suite.cells]
    assert all(len(cell.concepts) > 2 for cell in suite.cells)
    tokens = parse_specs([f"V* {noun}" for noun in ("chair", "sofa", "dog")])
    assert suitefile.template("<new1> chair, <new2> sofa and <new3> dog", tokens) == "{0}, {1} and {2}"
    (tmp_path / "dataset_mcpp.json").write_text(json.dumps([[*parts[:2], prompts]]))
    with pytest.raises(InputError, match="no group of three or four"):
        customconcept101.read_mcpp(tmp_path)
