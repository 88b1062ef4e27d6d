"""Vendors that cannot be reached or do not let us in; the simulator stands for them."""

from __future__ import annotations

import re
import socket
import time

import pytest

from ingestor.config.schema import Config, Polygon
from ingestor.doctor import CheckResult, Mark
from ingestor.doctor import vendor as module
from ingestor.doctor.vendor import certificate_finding, key_check, vendor_checks, way_checks
from ingestor.model.errors import ExitCode
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.doctor.typing_shell import assert_right, assert_wrong, typed
from tests.live_cli import API_KEY, simulator
from tests.ports import free_port

KEY = "abcdefghijklmnopqrstuvwxyz_12345"


def config(vendor: SimulatorProcess, **more: object) -> Config:
    return Config(
        polygon=Polygon(
            **{
                "stocks_url": vendor.stocks_url,
                "options_url": vendor.options_url,
                "api_key": API_KEY,
                **more,
            }  # type: ignore[arg-type]
        )
    )


def logins(found: list[CheckResult]) -> list[CheckResult]:
    return [finding for finding in found if finding.code == "VENDOR_LOGIN"]


@pytest.mark.parametrize("needed", [True, False])
def test_a_key_that_lacks_is_a_failure_where_a_live_run_is_asked_about(needed: bool) -> None:
    finding = key_check(None, needed=needed)
    assert_wrong(finding, "KEY", ExitCode.VENDOR_REFUSED if needed else 0)
    told = typed(finding, then="echo $POLYGON_API_KEY", given=f"{KEY}\n")
    assert_right(key_check(told.strip(), needed=needed), "KEY")


@pytest.mark.parametrize("key", [f'"{KEY}"', f"'{KEY}'", "short", KEY[:-1] + "!"])
def test_a_key_of_another_shape_is_told_and_never_shown(key: str) -> None:
    finding = key_check(key, needed=True)
    assert_wrong(finding, "KEY")
    assert key.strip("'\"") not in finding.found


def test_a_name_that_is_not_found_and_a_port_where_nobody_listens_are_told() -> None:
    (dns,) = way_checks("wss://nowhere.invalid/stocks")
    assert_wrong(dns, "VENDOR_DNS", ExitCode.CHILD_FAILED)
    found = {one.code: one for one in way_checks(f"ws://127.0.0.1:{free_port()}/stocks")}
    assert_right(found["VENDOR_DNS"], "VENDOR_DNS")
    assert_wrong(found["VENDOR_TCP"], "VENDOR_TCP", ExitCode.CHILD_FAILED)


@pytest.mark.parametrize("given", ["a key", "a live run", "neither"])
def test_a_vendor_that_is_not_reached_is_a_failure_to_who_needs_it(given: str) -> None:
    url, key = f"ws://127.0.0.1:{free_port()}/stocks", KEY if given == "a key" else None
    settings = Config(polygon=Polygon(stocks_url=url, options_url=url, api_key=key))
    found = vendor_checks(settings, login=False, needed=given == "a live run")
    (way,) = (finding for finding in found if finding.code == "VENDOR_TCP")
    assert_wrong(way, "VENDOR_TCP", 0 if given == "neither" else ExitCode.CHILD_FAILED)
    assert way.found.endswith("only a live run needs it") == (given == "neither")


def test_a_server_that_speaks_no_tls_is_told() -> None:
    with simulator() as vendor:
        found = {one.code: one for one in way_checks(vendor.stocks_url.replace("ws://", "wss://"))}
    assert_wrong(found["VENDOR_TLS"], "VENDOR_TLS", ExitCode.CHILD_FAILED)


def test_a_certificate_that_ends_soon_is_told() -> None:
    now_s = 1_765_900_000.0
    ends = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(now_s + 6.9 * 86_400))
    assert_wrong(certificate_finding({"notAfter": ends}, "TLSv1.3", now_s), "VENDOR_TLS")
    assert_right(certificate_finding({"notAfter": ends}, "TLSv1.3", now_s - 86_400), "VENDOR_TLS")
    assert certificate_finding({}, "TLSv1.3", now_s).mark is Mark.UNKNOWN


def test_nobody_logs_in_unasked() -> None:
    with simulator() as vendor:
        found = list(vendor_checks(config(vendor), login=False, needed=True))
        assert vendor.control("stats")["stocks"]["connections"] == []
    assert {one.mark for one in logins(found)} == {Mark.UNKNOWN}
    assert all(one.mend.endswith("doctor live --login") for one in logins(found))


def test_what_the_plan_holds_is_told_by_logging_in() -> None:
    with simulator() as vendor:
        found = logins(list(vendor_checks(config(vendor), login=True, needed=True)))
    assert found[0].found == "stocks: T.SPY, Q.SPY granted"
    assert re.fullmatch(r"options: T\.O:SPY\d{6}C\d{8}, Q\.\S+ granted", found[1].found)
    assert {finding.mark for finding in found} == {Mark.OK}


def test_a_key_that_is_refused_is_told_without_it() -> None:
    with simulator() as vendor:
        wrong = config(vendor, api_key="wr0ng-key")
        found = logins(list(vendor_checks(wrong, login=True, needed=True)))
    for finding in found:
        assert_wrong(finding, "VENDOR_LOGIN", ExitCode.VENDOR_REFUSED)
        assert "wr0ng-key" not in finding.found


def test_a_plan_that_lacks_something_is_told() -> None:
    with simulator("--plan", "stocks-T,stocks-Q") as vendor:
        found = logins(list(vendor_checks(config(vendor), login=True, needed=True)))
    assert [finding.mark for finding in found] == [Mark.OK, Mark.FAILURE]
    assert "Your plan doesn't include" in found[1].found
    assert "polygon.feeds" in found[1].found


def test_a_vendor_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAY_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"ws://127.0.0.1:{mute.getsockname()[1]}/stocks"
        polygon = Polygon(stocks_url=url, feeds=("stocks",), api_key=API_KEY)
        found = list(vendor_checks(Config(polygon=polygon), login=True, needed=True))
    assert_wrong(found[-1], "VENDOR_LOGIN", ExitCode.CHILD_FAILED)
