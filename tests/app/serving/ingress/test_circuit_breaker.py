"""When the circuit breaker of a version opens and closes."""

from app.serving.ingress.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock)
    for _ in range(3):
        assert breaker.allow()
        breaker.failed()
    return breaker


def test_single_failures_between_successes_never_open():
    breaker = CircuitBreaker(Clock())
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.allow()
    assert not breaker.is_open


def test_three_failures_in_a_row_open():
    breaker = opened(Clock())
    assert breaker.is_open
    assert not breaker.allow()


def test_after_the_open_period_one_call_is_allowed():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    assert breaker.allow()
    assert not breaker.allow()


def test_success_of_the_try_closes():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    assert breaker.allow()
    breaker.succeeded()
    assert breaker.allow()
    assert not breaker.is_open


def test_failure_of_the_try_opens_again():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 5.0
    assert breaker.allow()
    breaker.failed()
    clock.now = 9.9
    assert not breaker.allow()
    clock.now = 10.0
    assert breaker.allow()
