"""The paragraphs of a folder's HTML pages as plain text, pages in the order of their names.

    html_text.py FOLDER [PATTERN]        pages whose names are like PATTERN; all by default
"""

import html.parser
import pathlib
import sys

BLOCKS = {"p", "h1", "h2", "h3", "h4", "li", "dt", "dd", "pre", "td"}
LEFT_OUT = {"script", "style", "head", "nav"}


class Text(html.parser.HTMLParser):
    """Collects text; what a block element holds becomes one paragraph, its white space single spaces."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.words, self.silent = [], [], 0

    def flush(self):
        text = " ".join("".join(self.words).split())
        if text:
            self.paragraphs.append(text)
        self.words = []

    def handle_starttag(self, tag, attributes):
        if tag in LEFT_OUT:
            self.silent += 1
        if tag in BLOCKS:
            self.flush()

    def handle_endtag(self, tag):
        if tag in LEFT_OUT:
            self.silent = max(0, self.silent - 1)
        if tag in BLOCKS:
            self.flush()

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)


def main():
    shortest = 80  # characters; shorter paragraphs are headings, menus and commands
    pattern = sys.argv[2] if len(sys.argv) > 2 else "*.html"
    for page in sorted(pathlib.Path(sys.argv[1]).rglob(pattern), key=lambda path: path.name):
        text = Text()
        text.feed(page.read_text(encoding="utf-8"))
        text.flush()
        for paragraph in text.paragraphs:
            if len(paragraph) >= shortest:
                print(paragraph + "\n")


if __name__ == "__main__":
    main()
