"""Ends HAProxy with the raylet of its node: `python -S -I haproxy_watch.py RAYLET HAPROXY`.

Both are process ids. It waits for the end of either by their file descriptors, which, unlike an id,
stay those of the same process, and takes no CPU meanwhile. It imports nothing else, to stay small.
"""

import os
import select
import signal
import sys


def main(arguments: list[str]) -> None:
    """Wait until one of the processes has ended; if that is the raylet, end HAProxy."""
    raylet, haproxy = (os.pidfd_open(int(each)) for each in arguments)
    waiting = select.poll()
    for each in (raylet, haproxy):
        waiting.register(each, select.POLLIN)
    ended = {each for each, _ in waiting.poll()}
    if haproxy not in ended:
        signal.pidfd_send_signal(haproxy, signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
