"""Endpoints with waiting deliveries: a read removes only what was added before it began."""

from uuid import UUID

from delivery.engine.overflow import Overflow

A, B = UUID(int=1), UUID(int=2)


def test_a_read_removes_endpoints_added_before_it() -> None:
    overflow = Overflow()
    overflow.add([A, B])
    overflow.remove([A], overflow.begin_read())
    assert overflow.endpoints == {B}
    assert A not in overflow
    overflow.remove([B], overflow.begin_read())
    assert not overflow


def test_a_read_keeps_endpoints_added_after_it_began() -> None:
    overflow = Overflow()
    overflow.add([A])
    read = overflow.begin_read()
    overflow.add([A, B])
    overflow.remove([A, B], read)
    assert overflow.endpoints == {A, B}
    overflow.remove([A, B], overflow.begin_read())
    assert not overflow


def test_removing_an_unknown_endpoint_changes_nothing() -> None:
    overflow = Overflow()
    overflow.add([A])
    overflow.remove([B], overflow.begin_read())
    assert overflow.endpoints == {A}


def test_endpoints_can_be_removed_while_they_are_read() -> None:
    overflow = Overflow()
    overflow.add([A, B])
    overflow.remove((e for e in overflow.endpoints), overflow.begin_read())
    assert not overflow
