#!/bin/sh
# The program of RAY_SERVE_HAPROXY_BINARY_PATH: HAProxy with problem documents as error pages.
exec "${HAPROXY_PYTHON:-python3}" "$(dirname "$0")/haproxy_pages.py" "$@"
