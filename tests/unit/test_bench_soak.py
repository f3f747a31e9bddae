"""Slopes and pictures of the soak, from samples that are known."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("bench.soak", reason="the benchmarks are not part of the wheel")

from bench.soak.slopes import picture, settled, slope


def test_a_slope_is_growth_in_an_hour() -> None:
    at_s = [0.0, 60.0, 120.0, 180.0]
    assert slope(at_s, [1.0, 2.0, 3.0, 4.0]) == pytest.approx(60.0)
    assert slope(at_s, [5.0, 5.0, 5.0, 5.0]) == 0.0
    assert slope([0.0], [1.0]) == slope([], []) == 0.0


def test_the_start_does_not_count() -> None:
    assert settled([0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]) == 2
    assert settled([]) == 0


def test_a_picture_has_a_panel_for_each_quantity_and_a_line_for_each_name() -> None:
    drawn = picture([0.0, 10.0], {"MiB": {"a": [1.0, 2.0], "b<": [0.0, 4.0]}, "fds": {"a": [3.0, 3.0]}})
    root = ET.fromstring(drawn)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3
    assert lines[1].get("points") == "64.0,218.0 484.0,28.0", "from nothing at the left to the most at the right"
