"""What a recovery decides by what the stream has answered; how it ends is in `test_crashes`."""

from __future__ import annotations

import pytest

from ingestor.model.errors import StreamError
from ingestor.nats.answers import ApiError
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.ack_timer import MAX_REFUSALS
from ingestor.publish.batches import AckBatch
from ingestor.publish.link import StreamLink
from ingestor.publish.recovery import SILENCE_S, Recovery
from tests.publish.plain import PlainEncoder

HELD = ApiError(400, 10071, "wrong last sequence: 7")
TOO_LARGE = ApiError(400, 10054, "message size exceeds maximum allowed")


def recovery(give_up_after_s: float = 60.0) -> Recovery:
    link = StreamLink(
        PlainEncoder(),
        connect_options=ConnectOptions(),
        settings=StreamSettings(),
        open_timeout_s=5.0,
    )
    return Recovery(link, give_up_after_s=give_up_after_s)


def test_a_guard_is_given_up_only_where_others_write_its_subject() -> None:
    one = recovery()
    for contended, held in ((False, 0), (True, 1), (False, 1), (True, 2)):
        with pytest.raises(TimeoutError, match="wrong last sequence"):
            one._guard_refused(HELD, contended=contended)
        assert one._guards_held == held


def test_a_refusal_that_repeats_itself_ends_the_run() -> None:
    one = recovery()
    for _ in range(MAX_REFUSALS - 1):
        with pytest.raises(TimeoutError, match="exceeds maximum"):
            one._guard_refused(TOO_LARGE, contended=False)
    with pytest.raises(StreamError, match="MARKET_DATA refuses messages: message size exceeds"):
        one._guard_refused(TOO_LARGE, contended=False)


def test_a_message_stored_behind_a_refused_one_is_looked_at_twice_before_order_is_broken() -> None:
    one, batch = recovery(), AckBatch("_INBOX.x", "b")
    batch.acked, batch.out_of_order = 4, 4
    assert one._is_in_order(batch)
    batch.out_of_order = 5
    assert not one._is_in_order(batch)
    with pytest.raises(StreamError, match="the order is broken"):
        one._is_in_order(batch)
    batch.acked = 5
    assert one._is_in_order(batch)


@pytest.mark.parametrize(("give_up_after_s", "silence_s"), [(60.0, SILENCE_S), (4.0, 2.0)])
def test_a_silent_connection_is_made_anew_well_before_the_run_is_given_up(
    give_up_after_s: float, silence_s: float
) -> None:
    assert recovery(give_up_after_s).silence_s == silence_s
