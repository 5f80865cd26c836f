"""Hypothesis strategies: files as strangers, damaged disks and slips of the hand make them."""

from __future__ import annotations

import copy
import json
import struct

from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "\x1b[31mred\x1b[0m",
            "\x1b]0;title\x07",
            "a\0b",
            "\u202egnp",
            "../../x",
            "/etc/passwd",
            "~root",
            "-x",
            "x" * 300,
            "V*",
            "V2",
            "V9999",
            "\\V8",
            "犬",
            "e\u0301",
            "\U0001f600",
            "dog+cat",
            "dog:0",
            "dog:nan",
            "NaN",
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64, -(2**64), 10**400, 0.5, -0.0, 1e308, -1e308, 5e-324, 1001]),
    st.floats(allow_nan=True, allow_infinity=True),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
DEEP = "[" * 50_000


def places(tree, path=(), above=()):
    """The path of every value in a JSON tree; what holds itself is not entered again."""
    yield path
    if id(tree) in above:
        return
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key), (*above, id(tree)))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from places(value, (*path, index), (*above, id(tree)))


@st.composite
def changed(draw, tree, most=3):
    """A JSON tree with a few values replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(list(places(tree))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        parent = tree
        for step in path[:-1]:
            parent = parent[step]
        if draw(st.booleans()):
            parent[path[-1]] = draw(VALUES)
        elif isinstance(parent, dict) and draw(st.booleans()):
            parent[draw(TEXTS)] = parent.pop(path[-1])
        else:
            parent.pop(path[-1])
    return tree


@st.composite
def bent(draw, content):
    """Bytes with a few flipped, cut off, repeated or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(content), 4096) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "tail"]))
        if how == "flip" and content:
            content[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "repeat":
            content[at:at] = content[at : at + 64]
        else:
            content += draw(st.binary(max_size=16))
    return bytes(content)


# ---------------------------------------------------------------- safetensors

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I8": 1, "BOOL": 1, "F8_E4M3": 1}
SHAPES = st.lists(st.integers(0, 5), max_size=4)


def pack(metadata, tensors):
    """A safetensors file of {name: (dtype, shape, bytes)}, right by the format whatever it holds."""
    header, body = {"__metadata__": metadata}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def unpack(content):
    """(metadata, {name: (dtype, shape, bytes)}) of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata, body = header.pop("__metadata__", {}), content[8 + length :]
    return metadata, {
        name: (one["dtype"], one["shape"], body[slice(*one["data_offsets"])]) for name, one in header.items()
    }


@st.composite
def tensor(draw):
    dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(SHAPES)
    count = DTYPES[dtype]
    for side in shape:
        count *= side
    filler = draw(st.sampled_from([b"\0", b"\xff", b"\x3c", b"\x7c", b"\x01"]))  # zeros, NaN, numbers, infinities
    return dtype, shape, filler * count


@st.composite
def tensors_changed(draw, tensors):
    """Tensors with a few replaced, reshaped, poisoned, renamed or removed."""
    tensors = dict(tensors)
    for _ in range(draw(st.integers(1, 3))):
        if not tensors:
            break
        name = draw(st.sampled_from(sorted(tensors)))
        how = draw(st.sampled_from(["replace", "poison", "rename", "remove", "add", "huge"]))
        dtype, shape, content = tensors[name]
        if how == "replace":
            tensors[name] = draw(tensor())
        elif how == "poison" and dtype in ("F32", "F16") and content:
            nan = b"\0\0\xc0\x7f" if dtype == "F32" else b"\0\x7e"
            tensors[name] = dtype, shape, nan + content[len(nan) :]
        elif how == "huge" and dtype in ("F32", "F16"):
            size = DTYPES[dtype]
            tensors[name] = dtype, shape, (b"\xff\xff\x7f\x7f" if size == 4 else b"\xff\x7b") * (len(content) // size)
        elif how == "rename":
            tensors[draw(st.one_of(TEXTS, st.just(f"{name}.up"), st.just("down")))] = tensors.pop(name)
        elif how == "remove":
            del tensors[name]
        else:
            tensors[draw(TEXTS)] = draw(tensor())
    return tensors


@st.composite
def concept_files(draw, content):
    """A concept file with its manifest, its tensors or its bytes changed."""
    how = draw(st.sampled_from(["manifest", "manifest", "tensors", "tensors", "both", "bytes", "deep"]))
    if how == "bytes":
        return draw(bent(content))
    metadata, tensors = unpack(content)
    manifest = json.loads(metadata["cdtool"])
    if how in ("manifest", "both"):
        text = json.dumps(draw(changed(manifest)))
    else:
        text = DEEP if how == "deep" else metadata["cdtool"]
    if how in ("tensors", "both"):
        tensors = draw(tensors_changed(tensors))
    return pack({"cdtool": text}, tensors)
