"""What the user calls a concept: token specs such as "V* dog", and the modifier tokens in prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cdtool.errors import TokenError, UsageError
from cdtool.paths import exists

_MODIFIER = re.compile(r"(?<![\w\\])V(\*|[0-9]{1,4})(?!\w)")
_LOWER_CASE = re.compile(r"(?<![\w\\])v(\*|[0-9]{1,4})(?!\w)")
_WEIGHTED = re.compile(r"(?<!\\)\(((?:[^()\\]|\\.)*):\s*([0-9]*\.?[0-9]+)\s*\)")
_LARGEST_WEIGHT = 10
_LIKE = '--token "V* dog"'
_ARTICLE = re.compile(r"\b[Aa]n?$")
_VOWELS = ("a", "e", "i", "o", "u", "hour", "heir", "honest")
_CONSONANT_SOUNDS = ("uni", "eu", "use", "ukulele", "one ", "once")  # an uncle, but a unicorn
_LITERAL = re.compile(r"\\(?=V(?:\*|[0-9]{1,4})(?!\w))")

# Other tools' ways of naming a concept, which would pass as part of a plain noun: what stands there, and what it is.
_HABITS = (
    (re.compile(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}"), "the modifier is called V* here"),
    (re.compile(r"(?:sks|ohwx|zwx)(?!\w)", re.IGNORECASE), "the modifier is called V* here"),
    (re.compile(r"[Vv](?:\*|[0-9]{1,4})(?=\w)"), "a space belongs between the modifier and its noun"),
    (re.compile(r"(?:a|an|the|this|my|our|your|his|her)(?=\s)", re.IGNORECASE), "a class noun stands without article"),
)
_LITTLE_WORDS = {"a", "an", "the", "on", "in", "at", "of", "with", "and", "next", "by", "near", "under"}


@dataclass(frozen=True)
class Token:
    """A token spec: its class noun, whether a modifier token stands before it, and what that one begins as."""

    noun: str
    modifier: bool = True
    initializer: str = ""  # the vocabulary entry whose embedding it began as, e.g. "ktn"
    ids: tuple[int, ...] = ()  # the initializer's id in each tokenizer, which a prompt has in the modifier's place
    erased: bool = False  # the noun is what the concept makes the base forget, not what it teaches

    def words(self, number: int | None = None) -> str:
        """The words as a prompt has them: "V* dog", with a number "V2 dog", without a modifier "moongate"."""
        sign = "*" if number is None else str(number)
        return f"V{sign} {self.noun}".strip() if self.modifier else self.noun


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt: plain text and indices of the concept's modifier tokens, in order."""

    pieces: tuple[str | int, ...]
    named: frozenset[int] = frozenset()  # every token the prompt names, those without a modifier included
    text: str = field(default="", compare=False)  # as the user wrote it
    weights: tuple[float, ...] = ()  # of each piece, from "(word:1.2)"; none where all are 1

    def plain(self) -> str:
        """The prompt without its modifier tokens, as a scorer or the bare base gets it."""
        text = ""
        for piece in self.pieces:
            if isinstance(piece, str):
                piece = " ".join(piece.split())
                joint = _ARTICLE.search(text)  # the modifier stood between an article and its noun
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


def modifier_tokens(text: str) -> list[str]:
    """The modifier tokens of a text in order, e.g. ["V*", "V2"]."""
    return [found[0] for found in _MODIFIER.finditer(text)]


def numbered(text: str, index: int) -> str:
    """The text with `V*` written as the modifier of token `index`: of token 1, `V2`."""
    return _MODIFIER.sub(lambda match: f"V{index + 1}" if match[1] == "*" else match[0], text)


def parse_specs(specs: Sequence[str], first: int = 1) -> tuple[Token, ...]:
    """Tokens of `--token` specs in order; a number in a spec must equal its order, counted from `first`.

    Raises TokenError for a spec without a noun or modifier, with two modifiers, or with the wrong number.
    """
    tokens = tuple(_parse(spec, number) for number, spec in enumerate(specs, first))
    plain = [token.noun for token in tokens if not token.modifier]
    for noun in plain:
        if plain.count(noun) > 1:
            raise TokenError(f'Two tokens are the plain word "{noun}".', f'Tell them apart: --token "V1 {noun}".')
    return tokens


def _parse(spec: str, number: int) -> Token:
    modifiers = list(_MODIFIER.finditer(spec))
    noun = " ".join(_MODIFIER.sub(" ", spec).split())
    if spec.startswith("V") and " " not in spec and exists(spec):
        raise TokenError(
            f'The token "{spec}" is a file\'s name: your shell put it in the place of V*.', f"Use quotes: {_LIKE}."
        )
    if not noun:
        raise TokenError(f'The token "{spec}" has no class noun.', f"Name the kind of thing too, in quotes: {_LIKE}.")
    if len(modifiers) > 1 or (modifiers and spec[: modifiers[0].start()].strip()):
        raise TokenError(f'The token "{spec}" must be one modifier, V*, and then its class noun.', f"Like {_LIKE}.")
    if (lower := _LOWER_CASE.match(spec.strip())) and lower[1] in ("*", str(number)):
        raise TokenError(f'The token "{spec}" has a small v.', f'Write --token "V{spec.strip()[1:]}".')
    if modifiers and modifiers[0][1] not in ("*", str(number)):
        raise TokenError(
            f'The token "{spec}" is number {number} here.', f'Write --token "V{number} {noun}" or "V* {noun}".'
        )
    for habit, says in _HABITS:
        if other := habit.match(noun):
            rest = noun[other.end() :].strip() or "dog"
            raise TokenError(f'In the token "{spec}", "{other[0]}": {says}.', f'Write --token "V* {rest}".')
    return Token(noun=noun, modifier=bool(modifiers))


def check_quotes(prompts: Sequence[str]) -> None:
    """Raises UsageError where several prompts look like the words of one that was written without quotes."""
    if len(prompts) < 2 or any(len(prompt.split()) > 1 for prompt in prompts):
        return
    files = [prompt for prompt in prompts if prompt.startswith("V") and exists(prompt)]
    if files or any(prompt in _LITTLE_WORDS or _MODIFIER.fullmatch(prompt) for prompt in prompts):
        words = ["V*" if files and prompt == files[0] else prompt for prompt in prompts if prompt not in files[1:]]
        replaced = f", with {' and '.join(files)} in the place of V*" if files else ""
        raise UsageError(
            f"The prompt has no quotes, so your shell made {len(prompts)} of it{replaced}.",
            f'Put it in quotes: "{" ".join(words)}".',
        )


def capitalised(prompt: str) -> str:
    """The prompt with a capital V, where it has modifiers with a small one; "" where it has none."""
    return _LOWER_CASE.sub(r"V\1", prompt) if _LOWER_CASE.search(prompt) else ""


def bind(prompt: str, tokens: Sequence[Token]) -> Prompt:
    """Parse a prompt for a concept that holds `tokens`.

    `V*` is the only token; `V1`, `V2`... are the tokens in order: whole words, exact case. `\\V8` stands for the
    letters V8. Of a token without a modifier, `Vn` is left out of the prompt.

    Raises TokenError for a modifier that the concept does not hold, naming those it has.
    """
    pieces: list[str | int] = []
    named = set()
    end = 0
    for match in _MODIFIER.finditer(prompt):
        index = _index(match[0], match[1], tokens)
        named.add(index)
        pieces.append(_LITERAL.sub("", prompt[end : match.start()]))
        if tokens[index].modifier:
            pieces.append(index)
        end = match.end()
    pieces.append(_LITERAL.sub("", prompt[end:]))
    for index, token in enumerate(tokens):
        if not token.modifier and re.search(_noun(token), prompt, re.IGNORECASE):
            named.add(index)
    return Prompt(tuple(piece for piece in pieces if piece != ""), frozenset(named), prompt)


def bind_weighted(prompt: str, tokens: Sequence[Token]) -> Prompt:
    """`bind` for sampling: "(words:1.2)" gives the words that weight, as in the web interfaces; \\( is a parenthesis.

    Raises what `bind` raises, and TokenError for a weight above 10.
    """
    pieces: list[str | int] = []
    weights: list[float] = []
    named: frozenset[int] = frozenset()
    for segment, weight in _segments(prompt):
        if weight > _LARGEST_WEIGHT:
            raise TokenError(
                f'"({segment}:{weight:g})" would weigh its words {weight:g} times.',
                f"Weights go up to {_LARGEST_WEIGHT}; write \\( where a parenthesis is meant.",
            )
        part = bind(segment, tokens)
        kept = [piece for piece in part.pieces if isinstance(piece, int) or piece.strip()]
        pieces += [piece.replace("\\(", "(").replace("\\)", ")") if isinstance(piece, str) else piece for piece in kept]
        weights += [weight] * len(kept)
        named |= part.named
    return Prompt(tuple(pieces), named, prompt, tuple(weights) if set(weights) - {1.0} else ())


def _segments(prompt: str) -> Iterator[tuple[str, float]]:
    """The text of a prompt with the weight of each stretch."""
    end = 0
    for match in _WEIGHTED.finditer(prompt):
        yield prompt[end : match.start()], 1.0
        yield match[1], float(match[2])
        end = match.end()
    yield prompt[end:], 1.0


def own_words(prompt: Prompt, tokens: Sequence[Token]) -> list[tuple[str | int, int | None]]:
    """A prompt's pieces, each with the index of the token it belongs to, or None.

    To a token belong its modifier with the noun behind it, or its plain noun. Joined, the pieces are the prompt's.
    """
    owned: list[tuple[str | int, int | None]] = []
    for piece in prompt.pieces:
        if isinstance(piece, int):
            owned.append((piece, piece))
            continue
        before = owned[-1][0] if owned else ""
        noun = re.match(rf"\s*{_noun(tokens[before])}", piece, re.IGNORECASE) if isinstance(before, int) else None
        if noun and isinstance(before, int):
            owned.append((noun[0], before))
        owned += _plain_words(piece[noun.end() if noun else 0 :], tokens)
    return [(piece, owner) for piece, owner in owned if piece != ""]


def _noun(token: Token) -> str:
    return r"(?<!\w)" + r"\s+".join(map(re.escape, token.noun.split())) + r"(?!\w)"


def _plain_words(text: str, tokens: Sequence[Token]) -> list[tuple[str | int, int | None]]:
    """A text split at the nouns of tokens without a modifier; where one noun holds another, the longer one counts."""
    plain = sorted((i for i, token in enumerate(tokens) if not token.modifier), key=lambda i: -len(tokens[i].noun))
    owned: list[tuple[str | int, int | None]] = []
    end = 0
    for match in re.finditer("|".join(f"({_noun(tokens[index])})" for index in plain) or "(?!)", text, re.IGNORECASE):
        owned += [(text[end : match.start()], None), (match[0], plain[(match.lastindex or 1) - 1])]
        end = match.end()
    return [*owned, (text[end:], None)]


def _index(word: str, sign: str, tokens: Sequence[Token]) -> int:
    if sign == "*" and len(tokens) == 1:
        return 0
    if sign != "*" and 1 <= int(sign) <= len(tokens):
        return int(sign) - 1
    known = ", ".join(f'"{token.words(number)}"' for number, token in enumerate(tokens, 1)) or "no token"
    raise TokenError(
        f"The prompt names {word}, but here there is {known}.",
        f"Write \\{word} where the letters themselves are meant.",
    )
