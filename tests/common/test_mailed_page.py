"""python -m common.pages: one file that holds what the page showed from files beside it."""

from common.pages import main
from tests.helpers.report_page import Page


def test_pictures_beside_the_page_are_held_by_it(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "50% #1&2.jpg").write_bytes(b"one")
    page = tmp_path / "report.html"
    page.write_text(
        '<a href="x.jpg"><img width="2" src="pictures/50%25%20%231&amp;2.jpg"></a><img src="data:image/png;base64,AA==">'
    )
    assert main([str(page)]) == 0
    addresses = Page(tmp_path / "report_single.html").addresses
    assert addresses == ["x.jpg", "data:image/jpeg;base64,b25l", "data:image/png;base64,AA=="]


def test_a_missing_picture_or_one_from_elsewhere_ends_with_2_and_nothing_written(tmp_path, capsys):
    page = tmp_path / "in" / "report.html"
    page.parent.mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    for address in ("gone.jpg", "../outside.jpg"):
        page.write_text(f'<img src="{address}">')
        assert main([str(page)]) == 2
        assert address.rpartition("/")[2] in capsys.readouterr().err
        assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert main([str(tmp_path / "none.html")]) == 2 and "none.html" in capsys.readouterr().err
