import base64
from typing import Any

import pytest

from service.errors import InvalidRequest, UnknownField
from service.schemas.body import validate
from service.schemas.jobs import JobRequest, Webhook

ASKED: dict[str, Any] = {"task": "generate", "request": {"prompt": "a"}}
SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()


def test_a_webhook_may_be_just_an_address() -> None:
    url = "https://example.org/hook"
    assert validate(JobRequest, ASKED | {"webhook": url}).webhook == Webhook(url=url)
    whole = validate(JobRequest, ASKED | {"webhook": {"url": url, "secret": SECRET}}).webhook
    assert whole == Webhook(url=url, secret=SECRET)
    assert validate(JobRequest, ASKED).webhook is None
    assert validate(JobRequest, ASKED | {"webhook": None}).webhook is None


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"task": "paint"}, "task"),
        ({"request": "a"}, "request"),
        ({"webhook": 5}, "webhook"),
        ({"webhook": {}}, "webhook.url"),
        ({"webhook": {"url": "https://a.org", "secret": "whsec_short"}}, "webhook.secret"),
        ({"webhook": {"url": "https://a.org", "token": "x"}}, "webhook.token"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises((InvalidRequest, UnknownField)) as refused:
        validate(JobRequest, ASKED | wrong)
    assert refused.value.param == param
