"""Places and bytes: who gets them when there are fewer than are wanted."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from metalm_proto.errors import Overloaded
from metalm_service.places import LATEST_S, SOONEST_S, Places


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def told(places: Places, client: str, nbytes: int = 1) -> float:
    """After how many seconds to come again; 0 if there was room, which is taken."""
    try:
        places.take(client, nbytes)
    except Overloaded as refusal:
        wait_s = refusal.retry_after_s
    else:
        return 0.0
    assert wait_s is not None
    assert SOONEST_S <= wait_s <= LATEST_S
    return wait_s


def turned_away(places: Places, client: str, nbytes: int = 1) -> bool:
    """Whether there was no room; if there was, it is taken."""
    return told(places, client, nbytes) > 0


def test_room_is_limited_for_all_and_for_each() -> None:
    places = Places(4, 100, 0.5)
    places.take("a", 10)
    places.take("a", 10)
    with pytest.raises(Overloaded, match="this client has 2 requests"):
        places.take("a", 10)
    with pytest.raises(Overloaded, match="the server has 20 of 100"):
        places.take("b", 81)
    with pytest.raises(Overloaded, match="needs 40 bytes, and this client has 20 of 50"):
        Places.take(filled := Places(4, 100, 0.5), "a", 20)
        filled.take("a", 40)
    places.take("b", 40)
    places.take("b", 10)
    with pytest.raises(Overloaded, match="the server has 4 requests"):
        places.take("c", 1)
    assert (places.requests, places.bytes) == (4, 70)
    for client, nbytes in (("a", 10), ("a", 10), ("b", 40), ("b", 10)):
        places.give_back(client, nbytes)
    assert (places.requests, places.bytes) == (0, 0)


def test_one_request_is_always_allowed() -> None:
    places = Places(1, 100, 0.1)
    places.take("a", 100)


def test_a_place_is_kept_for_who_was_turned_away() -> None:
    places = Places(2, 100, 1.0, Clock())
    places.take("quick", 1)
    places.take("quick", 1)
    assert turned_away(places, "patient")
    places.give_back("quick", 1)
    with pytest.raises(Overloaded, match="kept for those who have waited longer, the server"):
        places.take("quick", 1)
    assert turned_away(places, "newcomer")
    places.take("patient", 1)
    places.give_back("quick", 1)
    places.take("newcomer", 1)


def test_who_has_waited_longest_is_first() -> None:
    clock = Clock()
    places = Places(2, 100, 1.0, clock)
    places.take("quick", 1)
    places.take("quick", 1)
    for client in ("first", "second", "third"):
        assert turned_away(places, client)
        clock.now_s += 0.1
    assert turned_away(places, "first")
    places.give_back("quick", 1)
    assert turned_away(places, "third")
    assert turned_away(places, "second")
    places.take("first", 1)
    places.give_back("quick", 1)
    assert turned_away(places, "third")
    places.take("second", 1)


def test_half_of_the_places_is_for_those_who_ask_at_once() -> None:
    places = Places(8, 100, 1.0, Clock())
    for _ in range(8):
        places.take("quick", 1)
    for number in range(20):
        assert turned_away(places, f"patient {number}")
    for _ in range(4):
        places.give_back("quick", 1)
        assert turned_away(places, "quick")
    places.give_back("quick", 1)
    places.take("quick", 1)
    for number in range(4):
        places.take(f"patient {number}", 1)


def test_bytes_are_kept_too() -> None:
    """A large request is not passed by for ever by small ones, which find room between."""
    places = Places(100, 100, 1.0, Clock())
    for _ in range(9):
        places.take("small", 10)
    assert turned_away(places, "large", 70)
    for _ in range(6):
        assert turned_away(places, "small", 10)
        places.give_back("small", 10)
    places.take("large", 70)


def test_nothing_is_kept_for_who_does_not_come_again() -> None:
    clock = Clock()
    places = Places(1, 100, 1.0, clock)
    places.take("quick", 1)
    assert turned_away(places, "patient")
    places.give_back("quick", 1)
    assert turned_away(places, "quick")
    clock.now_s += LATEST_S + 4
    places.take("newcomer", 1)


def test_ever_new_names_do_not_fill_the_memory() -> None:
    places = Places(1, 100, 1.0, Clock())
    places.take("quick", 1)
    for number in range(5000):
        assert turned_away(places, f"client {number}")
    assert len(places._waiting) <= 1024


def test_ever_new_names_that_have_places_do_not_fill_the_memory() -> None:
    places = Places(5000, 1, 1.0, Clock())
    for number in range(5000):
        places.take(f"client {number}", 0)
        assert turned_away(places, f"client {number}", 2)
    assert len(places._others_come_at) <= 1024


def test_all_are_served_where_most_are_quicker() -> None:
    """Twelve clients for four places, all of which ask again at once; each waits as it is told."""
    clock, chance = Clock(), random.Random(1)
    places = Places(4, 1000, 0.5, clock)
    served: Counter[str] = Counter()
    comes_at = {f"client {number}": 0.001 * number for number in range(12)}
    ends_at: dict[str, float] = {}
    while clock.now_s < 120:
        client = min(comes_at, key=comes_at.__getitem__)
        clock.now_s = comes_at[client]
        if client in ends_at:
            places.give_back(client, 1)
            del ends_at[client]
            served[client] += 1
        if wait_s := told(places, client):
            comes_at[client] += wait_s * chance.uniform(0.5, 1.5)
        else:
            comes_at[client] += 0.3
            ends_at[client] = comes_at[client]
    assert len(served) == 12
    assert min(served.values()) * 2 > max(served.values())
    # What is kept idle is less than half of the places, which serve one each 0.3 s.
    assert served.total() > 0.5 * 120 / 0.3 * 4


def test_the_first_is_told_to_come_again_soon() -> None:
    places = Places(1, 100, 1.0, Clock())
    places.take("quick", 1)
    assert told(places, "patient") == SOONEST_S


def served(places: Places, clock: Clock, times: int, seconds: float) -> None:
    """So many requests, one after the other, each of which takes so long."""
    for _ in range(times):
        places.take("before", 1)
        clock.now_s += seconds
        places.give_back("before", 1)


def test_clients_are_told_times_as_far_apart_as_places_become_free() -> None:
    clock = Clock()
    places = Places(4, 1000, 1.0, clock)
    served(places, clock, 200, 0.4)
    for number in range(4):
        places.take(f"quick {number}", 1)
    waits = [told(places, f"patient {number}") for number in range(50)]
    # Four places, each for 0.4 s.
    expected = [min(LATEST_S, SOONEST_S + 0.1 * number) for number in range(50)]
    assert waits == pytest.approx(expected, rel=1e-3)


def test_what_one_client_has_too_much_comes_far_apart_and_nobody_else_waits_for_it() -> None:
    clock = Clock()
    places = Places(4, 1000, 0.5, clock)
    served(places, clock, 200, 0.1)
    for client in ("greedy", "greedy", "other", "other"):
        places.take(client, 1)
    # Two places, each for 0.1 s: one of them is free again each 0.05 s.
    waits = [told(places, "greedy") for _ in range(30)]
    expected = [min(LATEST_S, SOONEST_S + 0.2 * number) for number in range(30)]
    assert waits == pytest.approx(expected, rel=1e-3)
    assert told(places, "other") == SOONEST_S
    assert told(places, "newcomer") == SOONEST_S


def test_who_has_nothing_is_told_to_come_soon_each_time() -> None:
    """Room is kept for him, and stands idle until he comes."""
    clock = Clock()
    places = Places(2, 1000, 1.0, clock)
    served(places, clock, 200, 2.0)
    for _ in range(2):
        places.take("quick", 1)
    for _ in range(5):
        assert told(places, "patient") == SOONEST_S
        clock.now_s += SOONEST_S
    # Of several of his requests one is enough.
    waits = [told(places, "patient") for _ in range(3)]
    assert SOONEST_S == waits[0] < waits[1] < waits[2]


def test_whom_the_door_turned_away_goes_on_waiting() -> None:
    clock = Clock()
    places = Places(1, 100, 1.0, clock)
    places.take("quick", 1)
    assert turned_away(places, "patient")
    for _ in range(10):
        clock.now_s += LATEST_S - 1
        assert SOONEST_S <= places.come_again_s("patient") <= LATEST_S
    places.give_back("quick", 1)
    assert turned_away(places, "quick")
    places.take("patient", 1)


def test_requests_that_end_together_are_known_by_how_long_they_took() -> None:
    clock = Clock()
    places = Places(64, 1000, 1.0, clock)
    for _ in range(20):
        for _ in range(64):
            places.take("together", 1)
        clock.now_s += 1.0
        for _ in range(64):
            places.give_back("together", 1)
    for _ in range(64):
        places.take("together", 1)
    waits = [told(places, f"patient {number}") for number in range(65)]
    # One of 64 becomes free each 1 / 64 s.
    assert 0.5 < waits[64] - waits[0] < 2


def test_requests_that_have_not_ended_yet_are_known_to_be_long() -> None:
    clock = Clock()
    places = Places(2, 1000, 1.0, clock)
    served(places, clock, 200, 0.01)
    for _ in range(2):
        places.take("long", 1)
    clock.now_s += 60
    assert told(places, "first") == SOONEST_S
    assert told(places, "second") > SOONEST_S + 1


def test_who_comes_again_is_not_refused_over_and_over() -> None:
    """Eighty streams of eight clients for eight places: as many are refused as are served."""
    clock, chance = Clock(), random.Random(1)
    places = Places(8, 1000, 0.5, clock)
    comes_at = {(client, number): 0.0 for client in "abcdefgh" for number in range(10)}
    held, served, refused = set(), 0, 0
    while clock.now_s < 120:
        stream = min(comes_at, key=comes_at.__getitem__)
        clock.now_s = comes_at[stream]
        if stream in held:
            places.give_back(stream[0], 1)
            held.discard(stream)
            served += 1
        if wait_s := told(places, stream[0]):
            refused += 1
            comes_at[stream] += wait_s * chance.uniform(0.5, 1.5)
        else:
            comes_at[stream] += 0.3
            held.add(stream)
    assert served > 0.9 * 120 / 0.3 * 8
    assert refused < served
