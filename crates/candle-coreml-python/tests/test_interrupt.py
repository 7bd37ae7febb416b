"""Ctrl-C, and other threads, while a model predicts."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import candle_coreml as ct

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")


class Interrupted(Exception):
    pass


@pytest.fixture
def alarm():
    def raised(signum, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, raised)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def stopped(alarm, work):
    """Seconds after which work ends that a signal stops after 0.2."""
    started = time.monotonic()
    alarm(0.2)
    with pytest.raises(Interrupted):
        work()
    return time.monotonic() - started


def test_a_signal_ends_a_prediction_of_one_model(alarm, intent):
    # One row after the other, on the thread of the caller.
    ids = np.ones((1, 16), np.int32)
    rows = [{"input_ids": ids, "attention_mask": ids}] * 200_000
    assert stopped(alarm, lambda: intent.predict(rows)) < 10
    assert intent.predict(rows[0])["logits"].shape == (1, 8), "it is still usable"


def test_a_signal_ends_a_batch_on_all_cores(alarm):
    model = ct.MLModel("conformance/classic/random_forest.mlmodel")
    row = {"input": np.zeros(4)}
    rows = [row] * 300_000
    assert stopped(alarm, lambda: model.predict(rows)) < 10
    assert set(model.predict(row)) == {"classLabel", "classProbability"}


def test_a_signal_ends_a_generation(alarm, language):
    def endless():
        while True:
            language.generate("What is", max_tokens=100_000, temperature=50.0)

    assert stopped(alarm, endless) < 5
    assert "82" in language.chat("What is 37 + 45?")


@pytest.mark.skipif(not hasattr(os, "kill") or os.name == "nt", reason="no signals")
def test_control_c_is_a_keyboard_interrupt(intent):
    ids = np.ones((1, 16), np.int32)
    rows = [{"input_ids": ids, "attention_mask": ids}] * 200_000
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        intent.predict(rows)
    timer.join()


def test_predictions_of_several_threads_do_not_disturb_each_other(intent):
    def ids(n):
        return np.full((1, 4 + n), 3 + n, np.int32)

    want = [intent.predict({"input_ids": ids(n), "attention_mask": np.ones_like(ids(n))})["logits"] for n in range(4)]
    wrong = []

    def work(n):
        for _ in range(30):
            found = intent.predict({"input_ids": ids(n), "attention_mask": np.ones_like(ids(n))})["logits"]
            if not np.array_equal(found, want[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_other_threads_run_during_a_prediction(intent):
    ids = np.ones((1, 16), np.int32)
    rows = [{"input_ids": ids, "attention_mask": ids}] * 1000
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            seen.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    started = time.monotonic()
    thread.start()
    intent.predict(rows)
    done.set()
    thread.join()
    inside = [t for t in seen if t > started]
    # With the lock held there would be none between the first and the last.
    assert len(inside) > 5
