"""Curves of pages: what there is of a run that has just begun is seen."""

from anyphoto_cli.files.html import lines


def test_a_single_point_is_drawn_and_each_tick_told_once():
    chart = lines("Loss", [("all of it", "first", [(6, 1.9), (7, float("nan"))])])
    [(_, path)] = chart.paths
    first, last = (tuple(map(float, point.split(","))) for point in path.split())
    assert 0 <= first[0] < last[0] <= 1000 and first[1] == last[1]
    assert [text for _, text in chart.ticks_x] == ["6"]
    few = lines("Loss", [("all of it", "first", [(1, 2.0), (2, 1.5), (3, 1.0)])])
    assert [text for _, text in few.ticks_x] == ["1", "2", "3"] and few.paths[0][1].count(",") == 3
