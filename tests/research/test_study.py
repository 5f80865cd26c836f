"""The page of a study: blind, balanced, the same each time; and, where a browser is at hand, answered in it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from htmlpages import Page
from PIL import Image, PngImagePlugin

from cdtool.errors import InputError
from cdtool.reports import html as webpage
from cdtool.research import answers
from cdtool.research import study as questionnaire
from cdtool.research.study import ImagePair

NAMES = ("zebra-alpha", "yak-beta")


def picture(number, side=12):
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def study(count=6, seed=0, prompts=None, photos=3):
    pairs = [
        ImagePair(prompts[place] if prompts else f"a dog, {place}", picture(place), picture(100 + place))
        for place in range(count)
    ]
    shown = {"dog": [picture(200 + place) for place in range(photos)]}
    return questionnaire.build(NAMES, pairs, shown, seed=seed)


def content(page):
    return json.loads(re.search(r'id="content">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_is_whole_fetches_nothing_and_may_fetch_nothing():
    page = Page(study().page)
    assert not page.faults
    assert not page.fetched
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_nothing_in_the_page_tells_whose_picture_is_whose():
    made = study()
    for name in (*NAMES, "seed", "subject"):
        assert name not in made.page
    asked = content(made.page)
    assert set(asked) == {"format", "study", "questions", "items", "pictures", "photos", "tiny"}
    assert all(set(item) <= {"id", "question", "left", "right", "text"} for item in asked["items"])
    assert list(asked["pictures"]) == sorted(asked["pictures"])
    mine = [item.a for item in made.key.items]
    assert len({(name < other) for name, other in zip(mine, [item.b for item in made.key.items], strict=True)}) == 2


def test_what_came_with_a_picture_does_not_go_with_it(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("cdtool", "zebra-alpha V* dog")
    picture(0).save(tmp_path / "zebra-alpha.png", pnginfo=info)
    with Image.open(tmp_path / "zebra-alpha.png") as image:
        made = questionnaire.build(NAMES, [ImagePair("a dog", image, picture(1))], {}, seed=0)
    assert content(made.page)["pictures"][made.key.items[0].a] == webpage.data_uri(picture(0))


def test_the_key_says_which_picture_is_whose():
    made = study()
    shown = content(made.page)["pictures"]
    for item in made.key.items:
        assert shown[item.a] == webpage.data_uri(picture(item.pair))
        assert shown[item.b] == webpage.data_uri(picture(100 + item.pair))
        assert item.prompt == f"a dog, {item.pair}"
    assert (made.key.a, made.key.b) == NAMES


def test_every_pair_is_asked_about_once_per_question_with_sides_in_balance():
    made = study(count=7)
    asked = content(made.page)
    assert [item["question"] for item in asked["items"]] == ["text"] * 7 + ["photos"] * 7
    for question in ("text", "photos"):
        items = [item for item in made.key.items if item.question == question]
        assert sorted(item.pair for item in items) == list(range(7))
        left = [one["left"] for one in asked["items"] if one["question"] == question]
        assert sum(first == item.a for first, item in zip(left, items, strict=True)) in (3, 4)
    orders = [[item.pair for item in made.key.items if item.question == question] for question in ("text", "photos")]
    assert orders[0] != orders[1] != list(range(7))


def test_the_text_is_shown_with_its_question_only():
    for item in content(study().page)["items"]:
        assert ("text" in item) == (item["question"] == "text")


def test_the_same_seed_makes_the_same_page_and_another_another():
    assert study(seed=4) == study(seed=4)
    assert study(seed=4).key.study != study(seed=5).key.study


def test_over_seeds_no_subject_has_a_side_or_a_place():
    first = Counter()
    for seed in range(40):
        made = study(count=3, seed=seed)
        item, asked = made.key.items[0], content(made.page)["items"][0]
        first[asked["left"] == item.a, item.pair] += 1
    assert {side for side, _ in first} == {True, False}
    assert {pair for _, pair in first} == {0, 1, 2}


def test_a_hostile_prompt_stays_a_text():
    hostile = "</script><script>alert(1)</script>"
    made = study(count=1, prompts=[hostile])
    assert "<script>alert" not in made.page
    assert content(made.page)["items"][0]["text"] == hostile
    assert not Page(made.page).faults


@pytest.mark.parametrize(("sizes", "wanted"), [([7], 4), ([2], 2), ([9, 9], 4), ([1, 9], 3), ([3] * 5, 5), ([], 0)])
def test_two_to_four_photos_are_shown_from_all_over(sizes, wanted):
    photos = {str(place): [picture(10 * place + n) for n in range(size)] for place, size in enumerate(sizes)}
    chosen = questionnaire.choose(photos)
    assert len(chosen) == wanted
    assert len({image.tobytes() for image in chosen}) == wanted


def test_without_photos_only_the_text_is_asked_about_and_without_pairs_nothing():
    made = study(photos=0)
    assert {item.question for item in made.key.items} == {"text"}
    with pytest.raises(InputError):
        questionnaire.build(NAMES, [], {})


# ---------------------------------------------------------------- in a browser

PLAY = """
<pre id="played"></pre><script>
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
localStorage.clear();
at("begin").click();
const seen = [];
for (const key of [KEYS]) {
  const item = study.items[state.place];
  seen.push([at("question").textContent, at("text").hidden ? "" : at("text").textContent, !at("photos").hidden]);
  press(key);
}
const told = { seen, file: at("copy").value, name: at("save").download, done: !at("end").hidden,
  kept: JSON.parse(localStorage.getItem(slot)), href: at("save").href.slice(0, 5) };
document.getElementById("played").textContent = JSON.stringify(told);
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_in_a_browser_keys_answer_go_back_and_make_a_file_that_is_scored(tmp_path):
    made = study(count=2, prompts=["a dog & <b>", "a dog “here”"])
    keys = ["ArrowLeft", "ArrowRight", "Backspace", "ArrowLeft", "ArrowDown", "ArrowRight"]
    page = made.page.replace("</body>", PLAY.replace("KEYS", ", ".join(map(repr, keys))))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    told = json.loads(html.unescape(re.search(r'<pre id="played">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert told["done"]
    assert told["href"] == "blob:"
    (tmp_path / told["name"]).write_text(told["file"], encoding="utf-8")

    asked = content(made.page)["items"]
    wanted = [asked[0]["left"], asked[1]["left"], "", asked[3]["right"]]
    found = answers.read_answers(tmp_path / told["name"], made.key)
    assert found.choices == dict(zip([item["id"] for item in asked], wanted, strict=True))
    assert told["kept"]["answers"] == found.choices
    assert sum(share.a + share.b for share in answers.score(made.key, [found]).values()) == 3
    assert told["seen"][0] == [answers.QUESTIONS["text"], made.key.items[0].prompt, False]
    assert told["seen"][-1] == [answers.QUESTIONS["photos"], "", True]
