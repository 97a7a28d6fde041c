from __future__ import annotations

import pytest

from sofs.constants import SILENCE_MS, SUSPICION_FORGET_MS
from sofs.core import witness as w
from sofs.core.messages import Interface, MoveClients, Notification, RegisterWitness
from sofs.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidState,
    LimitExceeded,
    NotFound,
    RevisionMismatch,
    SofsError,
)

A, B, C = "127.0.0.11:7000", "127.0.0.12:7000", "127.0.0.13:7000"
WITNESSES = ["127.0.0.11:7001", "127.0.0.12:7001", "127.0.0.13:7001"]
STREAM = object()
Registry = w.WitnessRegistry[str]


def registry_of(state: int = w.AVAILABLE) -> Registry:
    """The witness beside B; A and C are ``state``."""
    made: Registry = w.WitnessRegistry(
        w.pair([A, B, C], WITNESSES), own_node=B, has_share=lambda name: name.lower() == "share"
    )
    for node in (A, C):
        made.turned(0, node, state, "a" if node == A else "c")
    return made


def request(**fields: object) -> RegisterWitness:
    made = RegisterWitness(version=w.VERSION, share_name="share", address=A, client_name="me")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def registered(keep_alive_s: int = 10, **fields: object) -> Registry:
    made = registry_of()
    made.register(0, STREAM, b"ctx", request(keep_alive_s=keep_alive_s, **fields))
    return made


def kinds(answers: list[w.Answer[str]]) -> list[tuple[str, object]]:
    return [
        (asker, answer.state if isinstance(answer, Notification) else answer.code)
        for asker, answer in answers
    ]


# The interface list


def test_the_own_interface_may_not_witness_and_all_others_may() -> None:
    flags = {i.ipv4: i.flags for i in registry_of().interfaces()}
    assert flags == {
        "127.0.0.11": w.IPV4_VALID | w.MAY_WITNESS,
        "127.0.0.12": w.IPV4_VALID,
        "127.0.0.13": w.IPV4_VALID | w.MAY_WITNESS,
    }
    assert {i.state for i in registry_of().interfaces()} == {w.AVAILABLE}


def test_an_ipv6_witness_is_listed_as_such_and_a_node_without_one_may_not_witness() -> None:
    places = w.pair(["[::1]:7", "1.2.3.4:7"], ["[::1]:8"])
    six = w.interface_of(places[0], name="n", state=w.AVAILABLE, own=False)
    four = w.interface_of(places[1], name="", state=w.UNKNOWN, own=False)
    assert six == Interface("n", w.VERSION, 1, "", "::1", w.IPV6_VALID | w.MAY_WITNESS, 8)
    assert four == Interface("1.2.3.4:7", w.VERSION, 0, "1.2.3.4", "", w.IPV4_VALID, 0)


def test_nodes_and_witnesses_of_one_host_pair_in_order() -> None:
    assert w.pair(["h:1", "h:2", "h:3"], ["h:8", "h:9"]) == [
        w.Place("h:1", "h:8"),
        w.Place("h:2", "h:9"),
        w.Place("h:3", ""),
    ]


def test_the_clients_of_different_nodes_prefer_different_witnesses() -> None:
    first = [w.configured_interfaces([A, B, C], WITNESSES, own)[0].ipv4 for own in (A, B, C)]
    assert first == ["127.0.0.12", "127.0.0.13", "127.0.0.11"]


def test_there_is_no_candidate_while_no_other_node_is_available() -> None:
    registry = registry_of(w.UNAVAILABLE)
    assert not registry.has_candidate()
    registry.turned(1, C, w.AVAILABLE)
    assert registry.has_candidate()


# Registering


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 0x00010001}, RevisionMismatch),
        ({"version": 0}, RevisionMismatch),
        ({"client_name": ""}, InvalidParameter),
        ({"client_name": "x" * (w.CLIENT_NAME_CHARS_MAX + 1)}, InvalidParameter),
        ({"address": ""}, InvalidParameter),
        ({"net_name": "another-cluster"}, InvalidParameter),
        ({"flags": 2}, InvalidParameter),
        ({"keep_alive_s": w.KEEP_ALIVE_S_MAX + 1}, InvalidParameter),
        ({"address": "127.0.0.99:7000"}, InvalidState),
        ({"address": B}, InvalidState),
        ({"share_name": "nosuch"}, InvalidState),
    ],
)
def test_a_registration_that_can_not_be_served_is_refused(
    fields: dict[str, object], error: type[SofsError]
) -> None:
    registry = registry_of()
    with pytest.raises(error):
        registry.register(0, STREAM, b"ctx", request(**fields))
    assert len(registry) == 0


def test_a_registration_for_the_whole_cluster_needs_no_share() -> None:
    registered(share_name="")


def test_the_flag_for_ip_changes_is_taken_and_changes_nothing_else() -> None:
    registry = registered(flags=w.IP_NOTIFICATION)
    assert [client.flags for client in registry.clients(0)[0]] == [w.IP_NOTIFICATION]
    registry.ask(0, STREAM, b"ctx", "call")
    assert kinds(registry.turned(1, A, w.UNAVAILABLE)) == [("call", w.UNAVAILABLE)]


def test_a_witness_that_does_not_reach_the_node_refuses_to_watch_it() -> None:
    registry = registry_of(w.UNAVAILABLE)
    with pytest.raises(InvalidState, match="another witness"):
        registry.register(0, STREAM, b"ctx", request())


def test_registrations_of_one_stream_are_limited() -> None:
    registry = registry_of()
    for i in range(w.OWNER_REGISTRATIONS_MAX):
        registry.register(0, STREAM, b"%d" % i, request())
    with pytest.raises(LimitExceeded):
        registry.register(0, STREAM, b"more", request())
    registry.register(0, object(), b"other", request())


def test_all_registrations_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "REGISTRATIONS_MAX", 3)
    registry = registry_of()
    for i in range(3):
        registry.register(0, object(), b"%d" % i, request())
    with pytest.raises(LimitExceeded):
        registry.register(0, object(), b"more", request())


def test_unregistering_twice_is_an_invalid_parameter() -> None:
    registry = registered()
    registry.ask(0, STREAM, b"ctx", "call")
    assert kinds(registry.unregister(STREAM, b"ctx")) == [("call", "NOT_FOUND")]
    with pytest.raises(InvalidParameter):
        registry.unregister(STREAM, b"ctx")


def test_a_context_is_worth_nothing_on_another_stream() -> None:
    registry = registered()
    with pytest.raises(NotFound):
        registry.ask(0, object(), b"ctx", "call")
    with pytest.raises(InvalidParameter):
        registry.unregister(object(), b"ctx")


def test_the_end_of_a_stream_ends_its_registrations() -> None:
    registry = registered()
    registry.ask(0, STREAM, b"ctx", "call")
    registry.owner_gone(STREAM)
    assert len(registry) == 0
    assert registry.turned(1, A, w.UNAVAILABLE) == []


# Listening


def test_asking_with_an_unknown_context_is_not_found() -> None:
    with pytest.raises(NotFound):
        registry_of().ask(0, STREAM, b"ctx", "call")


def test_a_change_answers_the_outstanding_question_of_those_whom_it_concerns() -> None:
    registry = registered()
    other = object()
    registry.register(0, other, b"c", request(address=C))
    registry.ask(0, STREAM, b"ctx", "mine")
    registry.ask(0, other, b"c", "theirs")
    [(asker, notice)] = registry.turned(1, A, w.UNAVAILABLE)
    assert asker == "mine"
    assert notice == Notification(w.RESOURCE_CHANGE, w.UNAVAILABLE, "a", A)


def test_unavailable_and_available_are_two_answers_in_that_order() -> None:
    registry = registered()
    assert registry.turned(1, A, w.UNAVAILABLE) == []
    assert registry.turned(2, A, w.AVAILABLE) == []
    assert kinds(registry.ask(3, STREAM, b"ctx", "1")) == [("1", w.UNAVAILABLE)]
    assert kinds(registry.ask(3, STREAM, b"ctx", "2")) == [("2", w.AVAILABLE)]
    assert registry.ask(3, STREAM, b"ctx", "3") == []


def test_a_state_told_again_is_no_change() -> None:
    registry = registered()
    registry.ask(0, STREAM, b"ctx", "call")
    assert registry.turned(1, A, w.AVAILABLE) == []


def test_learning_that_a_node_is_there_is_no_change() -> None:
    registry = registry_of(w.UNKNOWN)
    registry.register(0, STREAM, b"ctx", request())
    registry.ask(0, STREAM, b"ctx", "call")
    assert registry.turned(1, A, w.AVAILABLE) == []
    assert len(registry.turned(2, A, w.UNAVAILABLE)) == 1


def test_a_second_question_takes_the_place_of_the_first() -> None:
    registry = registered()
    assert registry.ask(0, STREAM, b"ctx", "old") == []
    assert kinds(registry.ask(1, STREAM, b"ctx", "new")) == [("old", DeadlineExceeded.code)]
    assert kinds(registry.turned(2, A, w.UNAVAILABLE)) == [("new", w.UNAVAILABLE)]


def test_the_keep_alive_answers_and_asking_again_works() -> None:
    registry = registered(keep_alive_s=10)
    registry.ask(0, STREAM, b"ctx", "call")
    assert registry.expire(9_999) == []
    assert kinds(registry.expire(10_000)) == [("call", DeadlineExceeded.code)]
    assert registry.ask(10_001, STREAM, b"ctx", "again") == []
    assert kinds(registry.turned(10_002, A, w.UNAVAILABLE)) == [("again", w.UNAVAILABLE)]


def test_without_a_keep_alive_a_question_waits_for_ever() -> None:
    registry = registered(keep_alive_s=0)
    registry.ask(0, STREAM, b"ctx", "call")
    assert registry.expire(10**9) == []
    assert kinds(registry.turned(10**9, A, w.UNAVAILABLE)) == [("call", w.UNAVAILABLE)]
    registry.expire(10**9 + w.UNUSED_MS - 1)
    assert len(registry) == 1  # The client has its time to ask again.


def test_a_registration_that_nobody_listens_to_is_forgotten() -> None:
    registry = registered(keep_alive_s=10)
    registry.expire(10_000 + w.UNUSED_MS - 1)
    assert len(registry) == 1
    registry.expire(10_000 + w.UNUSED_MS)
    with pytest.raises(NotFound):
        registry.ask(50_000, STREAM, b"ctx", "call")


def test_more_than_the_queue_holds_ends_the_registration() -> None:
    registry = registered()
    for i in range(w.NOTIFICATIONS_MAX + 1):
        registry.turned(i, A, w.AVAILABLE if i % 2 else w.UNAVAILABLE)
    with pytest.raises(NotFound):
        registry.ask(99, STREAM, b"ctx", "call")


# Moves


def test_a_client_is_asked_to_move_unless_it_is_there() -> None:
    registry = registered()
    registry.ask(0, STREAM, b"ctx", "call")
    assert registry.move(1, MoveClients("me", "", "", [A])) == ({}, [])
    told, answers = registry.move(1, MoveClients("me", "", "", [C]))
    assert told == {b"ctx": C}
    assert answers == [("call", Notification(w.CLIENT_MOVE, w.AVAILABLE, "c", C))]


def test_swn_share_move_is_heard_by_registrations_for_the_share_only() -> None:
    registry = registered(share_name="")
    other = object()
    registry.register(0, other, b"c", request(client_name="other"))
    told, answers = registry.move(1, MoveClients("", "SHARE", "", [C]))
    assert (told, answers) == ({b"c": C}, [])
    [(asker, answer)] = registry.ask(2, other, b"c", "call")
    assert isinstance(answer, Notification)
    assert (asker, answer.kind, answer.address) == ("call", w.SHARE_MOVE, C)
    assert registry.ask(2, STREAM, b"ctx", "call") == []


def test_those_who_use_a_node_that_leaves_are_spread_over_the_others() -> None:
    registry = registered()
    for i in range(3):
        registry.register(0, STREAM, b"%d" % i, request(client_name=str(i)))
    registry.register(0, STREAM, b"there", request(address=C))
    told, _ = registry.move(1, MoveClients("", "", A, [B, C]))
    assert told == {b"ctx": B, b"0": C, b"1": B, b"2": C}


def test_a_move_to_nowhere_and_of_nobody_is_refused() -> None:
    registry = registered()
    for wrong in (
        MoveClients("me", "", "", ["127.0.0.99:1"]),
        MoveClients("", "share", "", []),
        MoveClients("me", "share", "", [C]),
        MoveClients("", "", "", [C]),
    ):
        with pytest.raises(InvalidParameter):
            registry.move(0, wrong)
    with pytest.raises(NotFound):
        registry.move(0, MoveClients("nobody", "", "", [C]))
    assert registry.ask(0, STREAM, b"ctx", "call") == []


def test_a_move_answers_one_question_with_one_kind_of_notice() -> None:
    registry = registered()
    registry.turned(1, A, w.UNAVAILABLE)
    registry.move(2, MoveClients("me", "", "", [C]))
    assert kinds(registry.ask(3, STREAM, b"ctx", "one")) == [("one", w.UNAVAILABLE)]
    [(_, answer)] = registry.ask(4, STREAM, b"ctx", "two")
    assert isinstance(answer, Notification)
    assert (answer.kind, answer.address) == (w.CLIENT_MOVE, C)


def test_administrators_see_registrations_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w, "LISTED_MAX", 1)
    registry = registered()
    registry.register(0, STREAM, b"c", request(client_name="other", share_name=""))
    registry.ask(0, STREAM, b"ctx", "call")
    ([first], one), ([second], two) = registry.clients(0), registry.clients(1)
    assert (one, two) == (1, 0)
    assert (first.client_name, first.node, first.state) == ("me", "a", "requested-notification")
    assert (second.client_name, second.share_name, second.state) == ("other", "", "registered")
    registry.unregister(STREAM, b"ctx")
    assert registry.clients(one) == ([second], 0), "a page begins where it did, whoever left"
    assert registry.clients(2) == ([], 0)


# What is believed of a node

LIVING, NEXT = b"1" * 16, b"2" * 16


def seen(now_ms: int = 0) -> w.NodeView:
    view = w.NodeView(now_ms)
    assert view.connected(now_ms, LIVING) == [w.AVAILABLE]
    return view


def test_a_refused_reconnect_is_the_end_of_a_node_and_told_once() -> None:
    view = seen()
    assert view.refused() == [w.UNAVAILABLE]
    assert view.refused() == []
    assert view.connected(50, NEXT) == [w.AVAILABLE]


def test_another_incarnation_at_the_address_means_that_the_one_in_use_is_gone() -> None:
    assert seen().connected(50, NEXT) == [w.UNAVAILABLE, w.AVAILABLE]


def test_a_reset_stream_to_the_same_incarnation_is_no_change() -> None:
    assert seen().connected(50, LIVING) == []


def test_silence_beyond_the_limit_is_the_end_until_the_node_speaks() -> None:
    view = seen()
    assert view.beat(SILENCE_MS, 0) == []
    assert view.beat(SILENCE_MS + 1, 0) == [w.UNAVAILABLE]
    assert view.beat(SILENCE_MS + 100, 0) == []
    assert view.beat(9_000, 8_990) == [w.AVAILABLE]


def test_a_node_that_was_never_reached_is_unavailable_after_the_limit() -> None:
    view = w.NodeView(0)
    assert view.beat(SILENCE_MS, 0) == []
    assert view.beat(SILENCE_MS + 1, 0) == [w.UNAVAILABLE]


def test_our_own_stall_gives_the_node_its_limit_anew() -> None:
    view = seen()
    view.stalled(10_000)
    assert view.beat(10_000, 0) == []
    assert view.beat(10_001 + SILENCE_MS, 0) == [w.UNAVAILABLE]


def test_a_node_that_was_only_slow_gets_twice_the_limit_for_a_while() -> None:
    view, now = seen(), 0
    for mistakes in range(1, 4):
        silent = now + view.limit_ms + 1
        assert view.beat(silent, 0) == [w.UNAVAILABLE]
        now = silent if mistakes > 1 else silent + 10
        assert view.beat(now, now) == [w.AVAILABLE]
        assert view.limit_ms == w.SLOW_SILENCE_MS
    assert view.mistakes == 1  # Twice the limit had spared nobody later.
    later = now + SUSPICION_FORGET_MS
    view.beat(later, later)
    assert view.limit_ms == SILENCE_MS


def test_a_node_that_was_away_for_long_was_rightly_left() -> None:
    view = seen()
    view.beat(SILENCE_MS + 1, 0)
    assert view.beat(5_000, 5_000) == [w.AVAILABLE]
    assert (view.mistakes, view.limit_ms) == (0, SILENCE_MS)
