"""Serve's command line with more time for the start: `python -m tests.serve_patiently run ...`.

Serve gives its proxies a minute, which is a constant; on a machine that runs tests they may need
longer.
"""

from ray.serve._private import constants

constants.HTTP_PROXY_TIMEOUT = 300

if __name__ == "__main__":
    from ray.serve.scripts import cli  # after the constant: other modules copy it

    cli()
