from service.engine.child import Reporter
from service.engine.observer import Observer, Observers
from service.metrics import Metrics

COUNTED = {name for name in vars(Observer) if not name.startswith("_")}


def test_all_that_can_be_counted_is() -> None:
    assert vars(Metrics).keys() >= COUNTED


def test_the_engines_process_reports_all_but_what_is_seen_at_the_other_end() -> None:
    assert COUNTED - vars(Reporter).keys() == {"finished", "restarted"}


def test_all_observers_are_told_all_there_is() -> None:
    one, other = Reporter(), Reporter()
    both = Observers(one, other)
    both.waited("batch", 0.5)
    both.cancelled("ann", "denoise", 1.5)
    told = [("waited", ("batch", 0.5)), ("cancelled", ("ann", "denoise", 1.5))]
    assert one.take() == other.take() == told
    assert vars(both).keys() == COUNTED
