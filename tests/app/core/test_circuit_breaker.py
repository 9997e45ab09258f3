"""When the circuit breaker of a version opens and closes."""

from app.core.circuit_breaker import Call, CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(breaker: CircuitBreaker) -> Call:
    call = breaker.begin()
    assert call is not None
    return call


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.end(begun(breaker), answered=False)


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock)
    fail(breaker, 3)
    return breaker


def test_single_failures_between_successes_never_open():
    breaker = CircuitBreaker(Clock())
    for _ in range(10):
        fail(breaker, 2)
        breaker.end(begun(breaker), answered=True)
    assert not breaker.is_open


def test_calls_that_say_nothing_neither_open_nor_interrupt_a_row_of_failures():
    breaker = CircuitBreaker(Clock())
    fail(breaker, 2)
    for _ in range(5):
        breaker.end(begun(breaker), answered=None)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open


def test_three_failures_in_a_row_open():
    breaker = opened(Clock())
    assert breaker.is_open
    assert breaker.begin() is None


def test_half_open_circuit_allows_a_call_each_second_until_one_has_ended():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    lost = begun(breaker)
    assert breaker.is_open
    assert breaker.begin() is None
    clock.now = 5.9
    assert breaker.begin() is None
    clock.now = 6.0
    breaker.end(begun(breaker), answered=True)
    assert not breaker.is_open
    fail(breaker, 2)
    breaker.end(lost, answered=False)
    assert not breaker.is_open


def test_call_that_says_nothing_makes_place_for_the_next_at_once():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    breaker.end(begun(breaker), answered=None)
    begun(breaker)
    assert breaker.begin() is None


def test_success_of_the_half_open_call_closes():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    breaker.end(begun(breaker), answered=True)
    assert breaker.begin() is not None
    assert breaker.begin() is not None


def test_failure_of_the_half_open_call_opens_again():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    fail(breaker)
    clock.now = 9.9
    assert breaker.begin() is None
    clock.now = 10.0
    begun(breaker)


def test_calls_from_before_the_circuit_opened_do_not_change_it():
    clock = Clock()
    breaker = CircuitBreaker(clock)
    early = [begun(breaker) for _ in range(2)]
    fail(breaker, 3)
    clock.now = 4.9
    breaker.end(early[0], answered=False)
    clock.now = 5.0
    begun(breaker)
    breaker.end(early[1], answered=True)
    assert breaker.begin() is None
