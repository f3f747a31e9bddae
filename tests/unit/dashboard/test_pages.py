"""What the dashboard tells its pages, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.dashboard.pages import Page, Pages
from sollol_agents.fleet_view.nodes import FORGET_S
from sollol_agents.fleet_view.view import FleetView
from sollol_agents.lab.testing.messages import decision, model, telemetry
from sollol_bus.transport.messages import decode
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import NodeEvent
from sollol_schemas.telemetry import NodeState

NOW, AT = 1000.0, 1_800_000_000.0


@pytest.fixture
def view() -> FleetView:
    made = FleetView()
    made.on_telemetry(telemetry("attic", installed=(model("m"),)), NOW)
    return made


class Browser:
    """A page that keeps what it is sent, and says that it has drawn it when told to."""

    def __init__(self, pages: Pages, topic: str = "fleet") -> None:
        self.got: list[dict[str, Any]] = []
        self.page = Page(lambda text: self.got.append(decode(text.encode(), dict[str, Any])))
        self.page.show(topic)
        pages.add(self.page)

    def draw(self) -> None:
        self.page.on_drawn(self.got[-1]["v"])


def test_a_page_gets_everything_once_and_then_what_changed(view: FleetView) -> None:
    pages = Pages(view)
    browser = Browser(pages)
    pages.tick(NOW, AT)
    browser.draw()
    assert browser.got[0]["full"]
    assert [n["id"] for n in browser.got[0]["nodes"]] == ["attic"]
    pages.tick(NOW + 0.5, AT)
    assert len(browser.got) == 1, "nothing changed"
    view.on_node(NodeEvent(node_id="attic", state=NodeState.DRAINING), NOW + 1, AT)
    pages.tick(NOW + 1, AT)
    assert [n["state"] for n in browser.got[1]["nodes"]] == ["draining"]


def test_a_page_that_draws_slowly_gets_fewer_updates_and_misses_nothing(view: FleetView) -> None:
    pages = Pages(view)
    browser = Browser(pages, "decisions")
    pages.tick(NOW, AT)
    for number in range(4):
        view.on_decision(DecisionEvent(decision=decision(f"r{number}-1")), NOW + number, AT)
        pages.tick(NOW + number, AT)
    assert len(browser.got) == 1
    browser.draw()
    pages.tick(NOW + 5, AT)
    assert [d["request_id"] for d in browser.got[1]["decisions"]] == ["r0", "r1", "r2", "r3"]


def test_pages_that_have_drawn_the_same_share_one_text(view: FleetView) -> None:
    pages = Pages(view)
    browsers = [Browser(pages) for _ in range(5)]
    assert pages.tick(NOW, AT) == 1
    assert all(b.got == browsers[0].got for b in browsers)


def test_a_page_that_turns_to_another_view_gets_all_of_it(view: FleetView) -> None:
    pages = Pages(view)
    browser = Browser(pages)
    pages.tick(NOW, AT)
    browser.page.show("playground")
    pages.tick(NOW + 1, AT)
    assert (browser.got[1]["full"], browser.got[1]["models"]) == (True, ["m"])


def test_a_page_that_lost_an_update_starts_anew(view: FleetView) -> None:
    pages = Pages(view)
    browser = Browser(pages)
    pages.tick(NOW, AT)
    pages.tick(NOW + 11, AT)
    assert [update["full"] for update in browser.got] == [True, True]


def test_a_page_whose_session_ended_is_sent_away(view: FleetView) -> None:
    pages = Pages(view)
    sent: list[str] = []
    page = Page(sent.append, may_look=lambda: False, leave=lambda: sent.append("away"))
    pages.add(page)
    pages.tick(NOW, AT)
    assert sent == ["away"]
    assert len(pages) == 0


def test_nodes_that_went_are_forgotten_while_nobody_looks(view: FleetView) -> None:
    pages = Pages(view)
    pages.tick(NOW, AT)
    pages.tick(NOW + FORGET_S + 20, AT)
    assert view.head(NOW, AT).nodes == 0


def test_without_pages_nothing_is_made(view: FleetView) -> None:
    pages = Pages(view)
    assert pages.tick(NOW, AT) == 0
    browser = Browser(pages)
    pages.remove(browser.page)
    assert pages.tick(NOW, AT) == 0


def test_a_fifty_first_page_is_too_many(view: FleetView) -> None:
    pages = Pages(view)
    for _ in range(49):
        Browser(pages)
    assert not pages.is_full
    Browser(pages)
    assert pages.is_full


def test_a_page_hears_a_beat_each_second_so_that_quiet_is_no_silence(view: FleetView) -> None:
    pages = Pages(view)
    browser = Browser(pages, "playground")
    pages.tick(NOW, AT)
    browser.draw()
    pages.tick(NOW + 0.5, AT)
    assert len(browser.got) == 1
    pages.tick(NOW + 1.0, AT)
    assert set(browser.got[1]) == {"v", "topic", "at", "full"}
    assert not browser.got[1]["full"]
