"""The report as a browser would read it: parsed with html.parser, never searched as one string where tags matter."""

import base64
import hashlib
import io
import re
import sys
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.files.html import Series, bars, histogram, render_page
from anyphoto_cli.preprocess.report import Counts, SheetFace, SheetPicture, draw, write_report
from anyphoto_cli.types import Box

pytest.importorskip("jinja2")

POINTS = np.array([[10, 16], [24, 16], [17, 24], [11, 34], [23, 34]], np.float64)
NASTY = "<script>alert('x')</script> \"q\" & [/] \u202eevil\x1b[31m\n{{ 7 * 7 }}"
VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """Elements as (tag, attributes), texts by tag; fails on tags that do not match."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(data.decode("utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag, look=""):
        return [a for t, a in self.elements if t == tag and look in (a.get("class") or "")]

    def text(self, tag):
        return [text for t, text in self.texts if t == tag]


def jpeg(width=360, height=240):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = jpeg()


def face(x=20.0, y=40.0, name="ana", flags=(), score=0.71):
    return SheetFace(Box(x, y, x + 34, y + 44), POINTS + [x, y], name, score, flags)


def picture(**changes):
    told = dict(
        id="a.jpg", status="kept", reason="", key="000000001", jpeg=JPEG, width=360, height=240,
        persons=(Box(5, 5, 200, 240),), faces=(face(), face(200, name="", flags=("blurred",))), caption="two friends",
    )  # fmt: skip
    return SheetPicture(**(told | changes))


EMPTY = Counts((), (), (), (), (0,) * 40, (0,) * 40, 0.4, (), 0)
FULL = Counts(
    stages=(("Photos", 1000), ("Readable", 990), ("Kept", 320)),
    reasons=(("dropped", "no face", 600), ("failed", "is a broken picture", 10)),
    widths=(("512-1023 px", 400), ("1024-2047 px", 590)), people=((1, 200), (2, 120)),
    scores=tuple(range(40)), unmatched=tuple(range(39, -1, -1)), threshold=0.4,
    identities=(("ana", 300, 4), ("ben", 12, 0)), identities_in_all=7,
)  # fmt: skip


@pytest.fixture
def report(tmp_path):
    def write(counts=FULL, pictures=(), title="anyphoto preprocess", facts=(("Photos", "1000"),)):
        write_report(tmp_path / "report.html", title, facts, counts, pictures)
        return (tmp_path / "report.html").read_bytes()

    return write


def test_texts_are_data(report):
    nasty = picture(
        id=NASTY, reason=NASTY, status="dropped", key=NASTY, caption=NASTY, faces=(face(name=NASTY, flags=(NASTY,)),)
    )
    counts = replace(
        FULL, stages=((NASTY, 3),), reasons=(("dropped", NASTY, 2),), widths=((NASTY, 1),), identities=((NASTY, 1, 1),)
    )
    data = report(counts, [nasty], title=NASTY, facts=((NASTY, NASTY),))
    page = Page(data)
    plain = Page(report(FULL, [picture(faces=(face(),))]))
    assert len(page.all("script")) == len(plain.all("script")) == 1
    assert "alert" not in page.text("script")[0]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    text = data.decode()
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f\x7f]", text)
    assert "\\u202eevil\\x1b[31m\\n{{ 7 * 7 }}" in text
    shown = "<script>alert('x')</script> \"q\" & [/] \\u202eevil\\x1b[31m\\n{{ 7 * 7 }}"
    assert page.text("h1") == [] and page.text("bdi").count(shown) >= 8
    assert page.all("button")[0]["aria-label"] == f"Enlarge {shown}"
    assert page.all("li", "cell")[0]["data-reason"] == shown.replace("31", "N").replace("7", "N")


def test_same_input_same_bytes(report):
    pictures = [picture(id=f"{k}.jpg") for k in range(5)]
    assert report(FULL, pictures) == report(FULL, pictures)


def test_nothing_comes_from_outside(report):
    data = report(FULL, [picture(caption="see https://example.org/ and //cdn")])
    page = Page(data)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "style", "xlink:href", "poster"):
            value = attributes.get(name)
            assert value is None or (name == "href" and value.startswith("data:image/jpeg;base64,"))
    style = page.text("style")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style
    assert data.count(b"https://") == 1 and b"http://" not in data


def test_policy_names_the_very_style_and_script(report):
    page = Page(report(FULL, [picture()]))
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256("".join(page.text(tag)).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_structure(report):
    page = Page(report(FULL, [picture(), picture(id="b.jpg", status="failed", jpeg=b"", width=0, height=0, faces=())]))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "popovertarget", "list"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
    assert len(page.all("li", "cell")) == 2 and len(page.all("image")) == 1
    assert page.all("image")[0]["href"] == "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    assert [a["id"] for a in page.all("input") if a["type"] == "checkbox"] == [
        "show-faces", "show-landmarks", "show-names", "show-persons"
    ]  # fmt: skip
    assert [a["class"] for a in page.all("g", "face ")] == ["face known", "face unknown flagged"]
    dots = page.all("path", "line")
    assert len(dots) == 2 and dots[0]["d"].startswith("M30.5 56.5h0") and dots[0]["d"].count("M") == 5
    assert {"ana 0.71", "unknown (blurred)"} <= set(page.text("title"))
    assert any("MultiID-2M" in text for text in page.text("p"))


def test_filter_offers_what_there_is(report):
    pictures = [picture()] + [
        picture(status="dropped", reason=f"repeats photo {one}", faces=()) for one in ("a.jpg", "b/7.jpg")
    ]
    page = Page(report(FULL, pictures))
    assert [a["value"] for a in page.all("option")] == ["", "dropped", "kept", "", "repeats another photo", "ana"]
    assert [a["data-reason"] for a in page.all("li", "cell")] == ["", "repeats another photo", "repeats another photo"]


def test_without_script_the_filter_is_not_there(report):
    assert "hidden" in Page(report(FULL, [picture()])).all("form")[0]


def test_empty_run(report):
    data = report(EMPTY, [], facts=())
    page = Page(data)
    assert not page.all("form") and not page.all("li") and not page.all("dl")
    assert "No face was compared." in page.text("p") and len(data) < 40_000


def test_identities_tell_how_many_there_are(report):
    page = Page(report(FULL))
    assert any(re.search(r"The 2 with the most photos,\sof 7", text) for text in page.text("p"))
    assert page.text("td") == ["300", "4", "12", "0"]


def test_two_hundred_pictures_stay_quick_and_small(report):
    crowd = tuple(face(5 + 18.0 * (k % 18), 40.0 * (k // 18), name=f"person_{k}") for k in range(60))
    pictures = [picture(id=f"{k}.jpg", faces=crowd if k % 10 == 0 else picture().faces) for k in range(200)]
    started = time.process_time()
    data = report(FULL, pictures)
    assert time.process_time() - started < 8
    assert len(data) < 200 * (len(JPEG) * 4 / 3 + 3_000) + 20 * 60 * 1_500 + 40_000


@pytest.mark.parametrize("size", [(360, 240), (240, 360), (360, 20), (1, 1)])
@pytest.mark.parametrize("name", ["ana", "x" * 300, "王" * 30, "", "W"])
def test_names_stay_inside_the_picture(size, name):
    width, height = size
    corners = [(-10.0, -10.0), (width - 20.0, height - 20.0), (width / 2, 0.0), (0.0, height / 2)]
    shown = draw(picture(width=width, height=height, faces=tuple(face(x, y, name=name) for x, y in corners)))
    for one in shown:
        label = one.label
        assert label.x + label.plate.x0 >= -1e-6 and label.y + label.plate.y0 >= -1e-6
        if height > 100:
            assert label.x + label.plate.x1 <= width + 1e-6 and label.y + label.plate.y1 <= height + 1e-6
            assert label.score == ("0.71" if name else "")
            assert label.plate.x0 <= label.text_x <= label.text_x + label.text_width <= label.plate.x1


def test_names_avoid_each_other_and_other_faces():
    faces = tuple(face(40.0 + 60 * k, 90.0, name=f"person_{k}") for k in range(4))
    plates = []
    for one in draw(picture(faces=faces)):
        plate, x, y = one.label.plate, one.label.x, one.label.y
        plates.append(Box(plate.x0 + x, plate.y0 + y, plate.x1 + x, plate.y1 + y))
    others = plates + [one.box for one in faces]
    for k, a in enumerate(plates):
        for b in others[:k] + others[k + 1 :]:
            assert min(a.x1, b.x1) - max(a.x0, b.x0) < 1e-6 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1e-6


def test_histogram_bars_add_up(report):
    page = Page(report(FULL))
    svg = page.all("svg")
    plot = next(a for a in svg if a.get("preserveaspectratio") == "none")
    _, _, bins, top = map(float, plot["viewbox"].split())
    assert bins == 40 and top >= 39
    pieces = [a for a in page.all("rect") if "y" in a and a["class"] in {"first", "second"}]
    heights = Counter()
    for piece in pieces:
        heights[piece["class"]] += int(piece["height"])
        assert int(piece["y"]) >= 0 and int(piece["y"]) + int(piece["height"]) <= top
    assert heights == {"first": sum(FULL.scores), "second": sum(FULL.unmatched)}
    assert next(a for a in page.all("line", "mark"))["x1"] == "40.0%"


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 6, 11, 99, 100, 101, 250, 251, 12_345, 10**9 + 1])
def test_ticks_are_few_and_round(most):
    chart = histogram("n", [Series("a", "first", [0, most])], 0, 1)
    ticks = chart.ticks_y
    assert ticks[0] == 0 and ticks[-1] == chart.top >= max(most, 1) and 2 <= len(ticks) <= 6
    assert str(ticks[1]).rstrip("0") in {"1", "2", "5"}
    assert {b - a for a, b in pairwise(ticks)} == {ticks[1]}


def test_bars_tell_counts_and_shares():
    rows = bars([("all", 100_000), ("nearly", 99_999), ("some", 1), ("none", 0)], whole=100_000)
    assert [row.value for row in rows] == ["100,000 · 100 %", "99,999 · 99.9 %", "1 · 0.1 %", "0 · 0 %"]
    assert [row.percent for row in rows] == [100.0, 100.0, 0.0, 0.0]
    assert [row.percent for row in bars([("a", 4), ("b", 1)])] == [100.0, 25.0]
    assert bars([("a", 0)])[0].percent == 0.0 and bars([]) == []


def test_without_jinja2(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(EnvironmentFault, match=r'pip install "anyphoto\[preprocess\]"'):
        render_page("", "", [])


def test_a_page_of_the_frame_alone():
    page = Page(render_page('{% extends "frame.html" %}', "bench", [("runs", "3")]))
    assert "bench" in page.text("title") and len(page.all("dd")) == 1
