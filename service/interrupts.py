"""Makes signals interrupt a command by KeyboardInterrupt, so that its cleanup runs.

Commands that run until they are stopped drain instead. service/worker/signals.py does that.
"""

import signal
from threading import current_thread, main_thread


def accept_ctrl_c() -> None:
    """Lets SIGINT interrupt a process that was started with SIGINT ignored.

    A script starts its `&` commands that way, and Python then installs no handler.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and current_thread() is main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt_on_any_signal() -> None:
    """Makes SIGTERM and SIGHUP interrupt a command as Ctrl-C does.

    An ignored signal stays ignored, for nohup.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL and current_thread() is main_thread():
            signal.signal(number, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
