"""A written report.html, read back for tests."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects every address that leads out of the page, every tag, and the text cells of all tables; checks that tags close."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, path):
        super().__init__()
        self.tags, self.addresses, self.rows, self.ids, self.text, self._open = [], [], [], [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], "unclosed tags"
        places = [address[1:] for address in self.addresses if address.startswith("#")]
        assert set(places) <= set(self.ids), "links to nowhere in the page"
        self.addresses = [address for address in self.addresses if not address.startswith("#")]

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        self.ids += [value for name, value in attributes if name == "id"]
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
