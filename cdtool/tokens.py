"""What the user calls a concept: token specs such as "V* dog", and the V-words in prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdtool.errors import TokenError

_V_WORD = re.compile(r"(?<![\w\\])V(\*|[0-9]{1,4})(?!\w)")
_SMALL = re.compile(r"v(\*|[0-9]{1,4})(?!\w)")
_ARTICLE = re.compile(r"\b[Aa]n?$")
_VOWELS = ("a", "e", "i", "o", "u", "hour", "heir", "honest")
_CONSONANT_SOUNDS = ("uni", "eu", "use", "ukulele", "one ", "once")  # an uncle, but a unicorn
_LITERAL = re.compile(r"\\(?=V(?:\*|[0-9]{1,4})(?!\w))")


@dataclass(frozen=True)
class Token:
    """One learned word: its class noun, whether a modifier (a learned row) stands before it, and its initialiser."""

    noun: str
    modifier: bool = True
    initializer: str = ""  # vocabulary entry the row began as, e.g. "ktn"
    ids: tuple[int, ...] = ()  # the initialiser's id in each tokenizer: what stands in the V place

    def words(self, place: int | None = None) -> str:
        """The words as a prompt has them: "V* dog", with a place "V2 dog", without a modifier "moongate"."""
        sign = "*" if place is None else str(place)
        return f"V{sign} {self.noun}".strip() if self.modifier else self.noun


@dataclass(frozen=True)
class Prompt:
    """A prompt taken apart: plain text and places (from 0) of the concept's tokens, in order."""

    pieces: tuple[str | int, ...]
    named: frozenset[int]  # every token the prompt names, those without a modifier included

    def plain(self) -> str:
        """The prompt without its V-words, as it is given to a scorer or to the bare base."""
        text = ""
        for piece in self.pieces:
            if isinstance(piece, str):
                piece = " ".join(piece.split())
                joint = _ARTICLE.search(text)  # the V-word stood between an article and its noun
                if joint and piece:
                    text = f"{text[: joint.start()]}{article(piece, joint[0])}"
                else:
                    text = f"{text} {piece}".strip()
        return text


def article(words: str, like: str = "a") -> str:
    """`words` with the indefinite article their first letters ask for, capitalised as `like` is."""
    low = words.lower()
    vowel = low.startswith(_VOWELS) and not low.startswith(_CONSONANT_SOUNDS)
    return f"{like[0]}{'n' if vowel else ''} {words}"


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 picture", "4 pictures", "2 passes"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def v_words(text: str) -> list[str]:
    """The V-words of a text in order, e.g. ["V*", "V2"]."""
    return [found[0] for found in _V_WORD.finditer(text)]


def numbered(text: str, place: int) -> str:
    """The text with `V*` written as the V-word of token `place` (from 0)."""
    return _V_WORD.sub(lambda found: f"V{place + 1}" if found[1] == "*" else found[0], text)


def parse_specs(specs: Sequence[str], first: int = 1) -> tuple[Token, ...]:
    """Tokens of `--token` specs in order; a number in a spec must equal its place, counted from `first`.

    Raises TokenError for a spec without a noun or modifier, with two V-words, or with the wrong number.
    """
    tokens = tuple(_parse(spec, first + place) for place, spec in enumerate(specs))
    plain = [token.noun for token in tokens if not token.modifier]
    for noun in plain:
        if plain.count(noun) > 1:
            raise TokenError(f'Two tokens are the plain word "{noun}".', f'Tell them apart: --token "V1 {noun}".')
    return tokens


def _parse(spec: str, place: int) -> Token:
    found = list(_V_WORD.finditer(spec))
    noun = " ".join(_V_WORD.sub(" ", spec).split())
    if not noun:
        raise TokenError(f'The token "{spec}" has no class noun.', 'Name the kind of thing too: --token "V* dog".')
    if len(found) > 1 or (found and spec[: found[0].start()].strip()):
        raise TokenError(f'The token "{spec}" must be one V-word and then its class noun.', 'Like --token "V* dog".')
    if (small := _SMALL.match(spec.strip())) and small[1] in ("*", str(place)):
        raise TokenError(f'The token "{spec}" has a small v.', f'Write --token "V{spec.strip()[1:]}".')
    if found and found[0][1] not in ("*", str(place)):
        raise TokenError(
            f'The token "{spec}" is number {place} here.', f'Write --token "V{place} {noun}" or "V* {noun}".'
        )
    return Token(noun=noun, modifier=bool(found))


def bind(prompt: str, tokens: Sequence[Token]) -> Prompt:
    """Take a prompt apart for a concept that holds `tokens`.

    `V*` is the only token, `V1`, `V2`... the tokens in order: whole words, exact case; `\\V8` is a literal. A token
    without a modifier has its V-word dropped.

    Raises TokenError for a V-word the concept does not hold, naming those it has.
    """
    pieces: list[str | int] = []
    named = set()
    end = 0
    for found in _V_WORD.finditer(prompt):
        place = _place(found[0], found[1], tokens)
        named.add(place)
        pieces.append(_LITERAL.sub("", prompt[end : found.start()]))
        if tokens[place].modifier:
            pieces.append(place)
        end = found.end()
    pieces.append(_LITERAL.sub("", prompt[end:]))
    for place, token in enumerate(tokens):
        if not token.modifier and re.search(rf"(?<!\w){re.escape(token.noun)}(?!\w)", prompt):
            named.add(place)
    return Prompt(tuple(piece for piece in pieces if piece != ""), frozenset(named))


def own_words(prompt: Prompt, tokens: Sequence[Token]) -> list[tuple[str | int, int | None]]:
    """A prompt's pieces with the token whose own words they are: its V-word with the noun behind it, or its plain noun.

    Every other piece is nobody's, None. Joined, the pieces are the prompt's.
    """
    found: list[tuple[str | int, int | None]] = []
    for piece in prompt.pieces:
        if isinstance(piece, int):
            found.append((piece, piece))
            continue
        before = found[-1][0] if found else ""
        behind = re.match(rf"\s*{_noun(tokens[before])}", piece, re.IGNORECASE) if isinstance(before, int) else None
        if behind and isinstance(before, int):
            found.append((behind[0], before))
        found += _plain_words(piece[behind.end() if behind else 0 :], tokens)
    return [(piece, owner) for piece, owner in found if piece != ""]


def _noun(token: Token) -> str:
    return r"(?<!\w)" + r"\s+".join(map(re.escape, token.noun.split())) + r"(?!\w)"


def _plain_words(text: str, tokens: Sequence[Token]) -> list[tuple[str | int, int | None]]:
    """A text cut at the nouns of tokens without a modifier; where one noun holds another, the longer one counts."""
    plain = sorted((p for p, token in enumerate(tokens) if not token.modifier), key=lambda p: -len(tokens[p].noun))
    found: list[tuple[str | int, int | None]] = []
    end = 0
    for match in re.finditer("|".join(f"({_noun(tokens[place])})" for place in plain) or "(?!)", text, re.IGNORECASE):
        found += [(text[end : match.start()], None), (match[0], plain[(match.lastindex or 1) - 1])]
        end = match.end()
    return [*found, (text[end:], None)]


def _place(word: str, sign: str, tokens: Sequence[Token]) -> int:
    if sign == "*" and len(tokens) == 1:
        return 0
    if sign != "*" and 1 <= int(sign) <= len(tokens):
        return int(sign) - 1
    held = ", ".join(f'"{token.words(place + 1)}"' for place, token in enumerate(tokens)) or "no token"
    raise TokenError(
        f"The prompt names {word}, but here there is {held}.", f"Write \\{word} where the letters themselves are meant."
    )
