import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.allowance import Quota, check_rate, parse_quotas

QUOTAS = st.builds(
    Quota, st.integers(0, 10**12).map(lambda millis: millis / 1000), st.sampled_from(["day", "month"])
)


@given(quotas=st.lists(QUOTAS, min_size=1).map(tuple))
def test_quotas_come_back_from_their_words(quotas: tuple[Quota, ...]) -> None:
    assert parse_quotas(" ".join(map(str, quotas))) == quotas


def test_unlimited_is_no_quota() -> None:
    assert parse_quotas("unlimited") == ()


@pytest.mark.parametrize("words", ["3600", "9/week", "-1/day", "1e3/day", "nan/day", "1/day;9/month", "/day"])
def test_what_is_no_quota_is_refused_with_an_example(words: str) -> None:
    with pytest.raises(ValueError, match="3600/day"):
        parse_quotas(words)


@pytest.mark.parametrize("rate", ["1/second", "60/minute", "1000/hour", "5/day", "unlimited"])
def test_a_rate_is_requests_in_a_time(rate: str) -> None:
    assert check_rate(rate) == rate


@pytest.mark.parametrize("rate", ["60", "0/minute", "60/month", "1.5/second", "60 per minute", " 1/day"])
def test_what_is_no_rate_is_refused_with_an_example(rate: str) -> None:
    with pytest.raises(ValueError, match="60/minute"):
        check_rate(rate)
