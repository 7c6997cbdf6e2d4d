"""The report page and its pictures."""

import re
from html.parser import HTMLParser

import numpy as np

from trainer.pictures import compression_picture, curves_picture, middle_slice, rollout_picture, spectra_picture
from trainer.report import Picture, Section, Table, html_report

PNG = b"\x89PNG\r\n\x1a\n"


def page(*blocks: str | Table | Picture) -> str:
    return html_report(title="A & B", summary="s", sections=[Section("h", blocks)], provenance={"commit": "<abc>"})


def test_a_page_needs_nothing_outside_itself() -> None:
    html = page(Picture(PNG, "a picture"), Table(("arm", "VRMSE"), [("scratch", "0.5")]))
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)


def test_every_tag_is_closed() -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(page("text", Picture(PNG, "p"), Table(("a",), [("1",)], best=0)))
    assert open_tags == []


def test_text_is_escaped() -> None:
    html = page(Table(("<script>",), [("a<b",)]))
    assert "<script>" not in html
    assert "a&lt;b" in html
    assert "&lt;abc&gt;" in html


def test_the_best_row_stands_out() -> None:
    html = page(Table(("arm",), [("one",), ("two",)], best=1))
    assert '<tr class="best"><td>two</td>' in html


def test_pictures_are_png_and_the_same_each_time() -> None:
    frames = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    pictures = [
        lambda: rollout_picture({"truth": frames, "model": frames}, leads=(0, 3), title="density"),
        lambda: curves_picture(
            {"arm": [(1, 0.5), (2, 0.4)], "persistence": [(1, 1), (2, 1)]}, xlabel="x", ylabel="y", title="t"
        ),
        lambda: compression_picture(
            {"all": [(4, 0.1), (16, 0.2)]}, {"4 to 1": frames[1]}, truth=frames[0], channel="density", title="t"
        ),
        lambda: spectra_picture({"truth": np.ones(5), "model": np.ones(5)}, title="t"),
    ]
    for draw in pictures:
        first = draw()
        assert first.startswith(PNG)
        assert first == draw()


def test_a_volume_is_shown_by_its_middle_slice() -> None:
    volume = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    assert (middle_slice(volume) == volume[:, :, 3]).all()
