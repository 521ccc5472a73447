"""The table of all cases in a report of `bench`, put in order by its heads."""

from anyphoto_cli.bench.report import write_report
from anyphoto_cli.bench.summing import METRICS, sum_up


def line(id_, sim_gt, placed=0, expected=0):
    told = dict.fromkeys(METRICS) | {"sim_gt": sim_gt}
    placement = {"error": None, "expected": expected, "placed": placed, "swapped": 0, "duplicates": 0, "extra": 0}
    return {
        "id": id_, "subset": "p1", "status": "scored", "reason": "", "legs": {"mini": told},
        "placement": placement if expected else None, **told,
    }  # fmt: skip


def test_the_table_is_put_in_order_by_its_heads(page, tmp_path):
    """By mouse and keyboard, up and down; what has no number comes last both times."""
    lines = [line("10", 0.5, 1, 2), line("9", None), line("a", -0.25, 2, 3), line("b", 0.75, 2, 2)]
    write_report(tmp_path / "r.html", "r", (), None, lines, sum_up(lines, {"mini": "0"}, {}))
    page.set_content((tmp_path / "r.html").read_text(encoding="utf-8"))

    def shown():
        return page.locator("table.all tbody th").all_inner_texts()

    def sorted_by():
        heads = page.locator("table.all thead th").all()
        return [(head.inner_text(), told) for head in heads if (told := head.get_attribute("aria-sort"))]

    head = page.get_by_role("button", name="Sim(GT)")
    head.click()
    assert shown() == ["a", "10", "b", "9"] and sorted_by() == [("Sim(GT)", "ascending")]
    head.focus()
    page.keyboard.press("Enter")
    assert shown() == ["b", "10", "a", "9"] and sorted_by() == [("Sim(GT)", "descending")]
    page.get_by_role("button", name="Case").click()
    assert shown() == ["9", "10", "a", "b"] and sorted_by() == [("Case", "ascending")]
    page.get_by_role("button", name="Placed").click()
    assert shown() == ["10", "a", "b", "9"] and not page.problems
