from __future__ import annotations

from anynet_dist.bench.rounds import alternate


def test_every_round_has_each_subject_once_and_every_second_one_is_reversed() -> None:
    calls: list[str] = []
    subjects = {name: (lambda name=name: calls.append(name)) for name in ("a", "b", "c")}
    timings = alternate(subjects, rounds=3)
    assert calls == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert [len(timing.wall) for timing in timings.values()] == [3, 3, 3]


def test_processor_time_is_that_of_the_subject_and_the_median_round_counts() -> None:
    spent = iter([0, 1, 10, 12, 20, 29])
    timing = alternate({"a": lambda: None}, rounds=3, cpu_clock=lambda: next(spent))["a"]
    assert timing.cpu == [1, 2, 9]
    assert timing.cpu_seconds == 2


def test_a_subject_that_sleeps_takes_no_processor_time() -> None:
    import time

    timing = alternate({"a": lambda: time.sleep(0.2)}, rounds=1)["a"]
    assert timing.seconds >= 0.2
    assert timing.cpu_seconds < 0.2
