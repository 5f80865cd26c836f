"""Token specs and the modifier tokens in prompts: whole words, exact case, literals, places."""

from __future__ import annotations

import pytest

from cdtool.errors import TokenError, UsageError
from cdtool.tokens import (
    Token,
    bind,
    bind_weighted,
    capitalised,
    check_quotes,
    counted,
    modifier_tokens,
    numbered,
    own_words,
    parse_specs,
)

DOG, GATE, CAT = Token("dog"), Token("moongate", modifier=False), Token("cat")


@pytest.mark.parametrize(
    ("specs", "tokens"),
    [
        (["V* dog"], (DOG,)),
        (["V1 dog"], (DOG,)),
        (["moongate"], (GATE,)),
        (["  V*   teddy   bear "], (Token("teddy bear"),)),
        (["V1 dog", "V2 cat"], (DOG, CAT)),
        (["V* dog", "V* cat"], (DOG, CAT)),
        (["V1 dog", "moongate"], (DOG, GATE)),
        (["TV* set"], (Token("TV* set", modifier=False),)),
        (["v8 engine"], (Token("v8 engine", modifier=False),)),
    ],
)
def test_specs(specs, tokens):
    assert parse_specs(specs) == tokens


def test_specs_can_count_on_from_an_older_concept():
    assert parse_specs(["V3 cat", "V* dog"], first=3) == (CAT, DOG)


@pytest.mark.parametrize(
    ("specs", "says", "hint"),
    [
        (["V*"], "no class noun", "V* dog"),
        ([""], "no class noun", "V* dog"),
        (["V1 V2 dog"], "one modifier", "V* dog"),
        (["V* dog V*"], "one modifier", "V* dog"),
        (["dog V*"], "one modifier", "V* dog"),
        (["V2 dog"], "number 1 here", '"V1 dog"'),
        (["V* cat", "V3 dog"], "number 2 here", '"V2 dog"'),
        (["V0 dog"], "number 1 here", '"V1 dog"'),
        (["v* dog"], "small v", '"V* dog"'),
        (["v1 dog"], "small v", '"V1 dog"'),
        (["<new1> dog"], "called V\\*", '"V* dog"'),
        (["V* <new1> teddy bear"], "called V\\*", '"V* teddy bear"'),
        (["[V] dog"], "called V\\*", '"V* dog"'),
        (["sks dog"], "called V\\*", '"V* dog"'),
        (["V*dog"], "a space", '"V* dog"'),
        (["V1dog"], "a space", '"V* dog"'),
        (["my dog"], "without article", '"V* dog"'),
        (["V* a dog"], "without article", '"V* dog"'),
        (["moongate", "moongate"], 'plain word "moongate"', "V1 moongate"),
    ],
)
def test_bad_specs(specs, says, hint):
    with pytest.raises(TokenError, match=says) as caught:
        parse_specs(specs)
    assert hint in caught.value.hint


def test_a_token_that_the_shell_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "V2.png").touch()
    (tmp_path / "moongate").mkdir()
    with pytest.raises(TokenError, match=r"V2\.png.* in the place of V") as caught:
        parse_specs(["V2.png"])
    assert "quotes" in caught.value.hint
    assert parse_specs(["moongate"]) == (GATE,)  # the folder of its photos


@pytest.mark.parametrize(
    ("prompts", "whole"),
    [
        (["V*", "dog"], '"V* dog"'),
        (["V1", "dog", "on", "the", "beach"], '"V1 dog on the beach"'),
        (["Vase.jpg", "Vine.jpg", "dog"], '"V* dog"'),
        (["dog", "on", "grass"], '"dog on grass"'),
    ],
)
def test_a_prompt_without_quotes(prompts, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("Vase.jpg", "Vine.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=f"made {len(prompts)} of it") as caught:
        check_quotes(prompts)
    assert whole in caught.value.hint
    assert ("Vase.jpg and Vine.jpg" in str(caught.value)) == ("Vase.jpg" in prompts)


@pytest.mark.parametrize("prompts", [[], ["moongate"], ["dog", "cat", "owl"], ["V* dog", "the beach"], ["V*"]])
def test_prompts_that_may_be_meant(prompts):
    check_quotes(prompts)


def test_a_prompt_with_small_modifiers():
    assert capitalised("a v* dog and v2 cat, vase") == "a V* dog and V2 cat, vase"
    assert capitalised(r"V* dog, tv1, \v8") == ""


@pytest.mark.parametrize(
    ("prompt", "tokens", "pieces"),
    [
        ("V* dog", [DOG], (0, " dog")),
        ("a V* dog, and V1 again", [DOG], ("a ", 0, " dog, and ", 0, " again")),
        ("V2 cat on V1 dog", [DOG, CAT], (1, " cat on ", 0, " dog")),
        ("(V*)", [DOG], ("(", 0, ")")),
        ("V*'s ball", [DOG], (0, "'s ball")),
        ("V*-like", [DOG], (0, "-like")),
        ("MTV* and V1x and xV1 and V_1", [DOG], ("MTV* and V1x and xV1 and V_1",)),
        ("v1 dog, v* dog", [DOG], ("v1 dog, v* dog",)),
        (r"a \V8 engine", [DOG], ("a V8 engine",)),
        (r"\V* by V*", [DOG], ("V* by ", 0)),
        (r"a back\slash", [DOG], (r"a back\slash",)),
        ("V1 dog before V2 moongate", [DOG, GATE], (0, " dog before ", " moongate")),
        ("", [DOG], ()),
        ("a Vase of Vs", [DOG], ("a Vase of Vs",)),
        ("V123456 years", [DOG], ("V123456 years",)),
    ],
)
def test_bind(prompt, tokens, pieces):
    assert bind(prompt, tokens).pieces == pieces


@pytest.mark.parametrize(
    ("prompt", "tokens", "named"),
    [
        ("V* dog", [DOG], {0}),
        ("a dog", [DOG], set()),
        ("a moongate", [GATE], {0}),
        ("moongates", [GATE], set()),
        ("A Moongate", [GATE], {0}),
        ("V2 moongate", [DOG, GATE], {1}),
        ("V1 and a moongate", [DOG, GATE], {0, 1}),
    ],
)
def test_named_tokens(prompt, tokens, named):
    assert bind(prompt, tokens).named == named


@pytest.mark.parametrize(
    ("prompt", "tokens", "held"),
    [
        ("V2 dog", [DOG], '"V1 dog"'),
        ("V0", [DOG], '"V1 dog"'),
        ("V* dog", [DOG, CAT], '"V1 dog", "V2 cat"'),
        ("V3", [DOG, GATE], '"V1 dog", "moongate"'),
        ("V*", [], "no token"),
    ],
)
def test_a_token_the_concept_lacks_is_an_error_that_names_those_it_has(prompt, tokens, held):
    with pytest.raises(TokenError) as caught:
        bind(prompt, tokens)
    assert held in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("photo of a V* dog on the beach", "photo of a dog on the beach"),
        ("an V* dog", "a dog"),
        ("A V* owl", "An owl"),
        ("V*  dog", "dog"),
        (r"V* dog by a \V8", "dog by a V8"),
    ],
)
def test_a_prompt_without_its_modifier_tokens(prompt, plain):
    assert bind(prompt, [DOG]).plain() == plain


def test_words_and_numbers():
    assert DOG.words() == "V* dog"
    assert DOG.words(2) == "V2 dog"
    assert GATE.words(2) == "moongate"
    assert modifier_tokens(r"V* dog, \V8 and V2, v3") == ["V*", "V2"]
    assert numbered("V* dog and V3", 1) == "V2 dog and V3"


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        (
            "a V1 dog in V2 cat's hat",
            [("a ", None), (0, 0), (" dog", 0), (" in ", None), (1, 1), (" cat", 1), ("'s hat", None)],
        ),
        ("V1 big dog", [(0, 0), (" big dog", None)]),
        ("V1 dogs", [(0, 0), (" dogs", None)]),
        ("V1  DOG", [(0, 0), ("  DOG", 0)]),
        ("V2 and V1", [(1, 1), (" and ", None), (0, 0)]),
        ("a Moongate, V3 moongate", [("a ", None), ("Moongate", 2), (", ", None), (" ", None), ("moongate", 2)]),
        ("moongates", [("moongates", None)]),
        ("V1 moongate", [(0, 0), (" ", None), ("moongate", 2)]),
    ],
)
def test_own_words_are_told_from_the_others(prompt, pieces):
    tokens = (Token("dog"), Token("cat"), Token("moongate", modifier=False))
    bound = bind(prompt, tokens)
    assert own_words(bound, tokens) == pieces
    assert "".join(str(piece) for piece, _ in own_words(bound, tokens)) == "".join(map(str, bound.pieces))


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "row", "0 rows"), (1, "row", "1 row"), (2, "row", "2 rows"), (1, "pass", "1 pass"), (4, "pass", "4 passes")],
)
def test_things_are_counted_in_words(number, noun, said):
    assert counted(number, noun) == said


@pytest.mark.parametrize(
    ("prompt", "pieces", "weights"),
    [
        ("V* dog (on the beach:1.5)", (0, " dog ", "on the beach"), (1, 1, 1.5)),
        ("a (V* dog:.8), sleeping", ("a ", 0, " dog", ", sleeping"), (1, 0.8, 0.8, 1)),
        ("a (red:1.2) (V*:2) dog", ("a ", "red", 0, " dog"), (1, 1.2, 2, 1)),
        ("V* dog (big)", (0, " dog (big)"), ()),
        (r"\(V* dog:1.2\)", ("(", 0, " dog:1.2)"), ()),
        ("V* dog: 1.2", (0, " dog: 1.2"), ()),
        ("", (), ()),
    ],
)
def test_weights_of_words(prompt, pieces, weights):
    found = bind_weighted(prompt, [DOG])
    assert (found.pieces, found.weights) == (pieces, weights)
    assert found.named == ({0} if "V*" in prompt else frozenset())


def test_a_weight_that_is_none():
    with pytest.raises(TokenError, match="16 times") as caught:
        bind_weighted("V* dog (3:16)", [DOG])
    assert r"\(" in caught.value.hint
