from cnnmod.records.text import TextTable


def test_numbers_are_right_aligned_and_words_left_aligned():
    rows = [["a", "9.5", "", "word"], ["bcd", "10.25", "+3.9", "7"]]
    lines = str(TextTable("Title", ["name", "ms", "tax", "what"], rows, ["A note."])).splitlines()
    assert lines == [
        "Title",
        "name     ms   tax  what",
        "a       9.5        word",
        "bcd   10.25  +3.9  7",
        "A note.",
    ]


def test_header_rows_and_note_are_optional():
    assert str(TextTable("Title", [], [["size", "3 MB"], ["blocks", "none"]])) == "Title\nsize    3 MB\nblocks  none"
    assert str(TextTable("Title", [], [], ["Nothing."])) == "Title\nNothing."
    assert str(TextTable("Title", ["a", "b"], [])) == "Title\na  b"
    assert "<th" not in TextTable("Title", [], [["a"]]).html()
    assert TextTable("Title", [], []).html() == "<table>\n<caption>Title</caption>\n</table>"


def test_html_is_escaped():
    evil = "<script>alert('&')</script>"
    html = TextTable(evil, [evil, "ms"], [[evil, "1.5"]], [evil]).html()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 4
    assert '<td style="text-align: right">1.5</td>' in html
    assert '<th style="text-align: right">ms</th>' in html
