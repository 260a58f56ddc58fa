"""Whether several tenants share."""

from __future__ import annotations

from cellserve_server.engine.sharing import LATELY_S, Sharing


def test_they_share_until_all_but_one_have_been_away_for_a_while() -> None:
    now = 0.0
    sharing = Sharing(lambda: 1, lambda: now)
    assert not sharing.is_shared
    sharing.note("a")
    sharing.note("a")
    assert not sharing.is_shared
    sharing.note("b")
    assert sharing.is_shared
    for _ in range(10):
        now += LATELY_S / 4
        sharing.note("a")
        assert sharing.is_shared == (now <= LATELY_S)
    now += 10 * LATELY_S
    assert not sharing.is_shared
    sharing.note("c")
    assert not sharing.is_shared, "a has been away"
    sharing.note("b")
    assert sharing.is_shared


def test_they_share_however_long_what_they_have_brought_takes() -> None:
    now, under_way = 0.0, 2
    sharing = Sharing(lambda: under_way, lambda: now)
    sharing.note("a")
    sharing.note("b")
    now = 10 * LATELY_S
    assert sharing.is_shared
    under_way = 1
    assert not sharing.is_shared
