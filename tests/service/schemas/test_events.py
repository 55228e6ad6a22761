from service.schemas.events import PartialImageEvent, ProgressEvent, TextDeltaEvent


def test_events_do_not_change_once_made() -> None:
    for kind in (PartialImageEvent, ProgressEvent, TextDeltaEvent):
        assert kind.model_config["frozen"]
