"""What holds for all tests.

A shell that starts the tests in the background lets them ignore Ctrl-C, and the commands that they start would ignore
it too. So the usual handling is restored.
"""

import signal
import threading

if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
