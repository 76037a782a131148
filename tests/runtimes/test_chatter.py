"""Libraries' warnings are silenced while they are read, in several threads, and heard again behind it."""

import logging
import threading

from himix_edge.runtimes.chatter import without_logged_warnings


def test_the_last_thread_gives_logging_back(caplog):
    caplog.set_level(logging.WARNING, logger="himix_edge")  # exporters set the root's
    began, go_on = threading.Barrier(2), threading.Event()

    def longer():
        with without_logged_warnings():
            began.wait(10)
            go_on.wait(10)

    other = threading.Thread(target=longer)
    with without_logged_warnings():
        other.start()
        began.wait(10)
    logging.getLogger("himix_edge").warning("while one is silent")
    go_on.set()
    other.join(10)
    logging.getLogger("himix_edge").warning("behind it")
    assert caplog.messages == ["behind it"]
