"""A page taken apart: its elements and texts, whether tags nest, and what it would fetch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input", "link"}
FETCHING = ("src", "href", "srcset", "poster", "action", "data", "xlink:href")  # styles fetch by url() alone


class Page(HTMLParser):
    """The elements of a page as (name, attributes), its text outside scripts and styles, and what is wrong with it."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.texts, self.faults, self.open = text, [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{name}> is never closed" for name in self.open]

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        if not self.open or self.open.pop() != name:
            self.faults.append(f"</{name}> closes another")

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]

    @property
    def fetched(self):
        """Everything a browser would ask another place for."""
        given = [(key, value or "") for _, attributes in self.elements for key, value in attributes.items()]
        links = [value for key, value in given if key in FETCHING and not value.startswith(("data:image/", "#"))]
        rest = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", self.source)
        return links + re.findall(r"url\(|@import|https?:|//[\w.]+/|\bfetch\(|XMLHttpRequest|WebSocket", rest)
