"""A written report.html, read back for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects every address, tag, and the text cells of all tables; checks that tags close."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, path):
        super().__init__()
        self.tags, self.addresses, self.rows, self.text, self._open = [], [], [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], "unclosed tags"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self._open and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def cells(self, start):
        """The cells of the rows whose first cell starts with `start`, white space folded."""
        folded = [[" ".join(cell.split()) for cell in row] for row in self.rows if row]
        return [row for row in folded if row[0].startswith(start)]
