#!/usr/bin/env bash
# Installs the browser of the report's tests with Debian's packages, where there is none; as root.
set -euo pipefail
# For each program by itself: of several, `command -v` is content with one.
is_there() { command -v chromium > /dev/null && command -v chromedriver > /dev/null; }
if is_there; then exit 0; fi
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
install || { apt-get update -qq && install; }
is_there || { echo "error: chromium and chromedriver are still not both on the PATH" >&2; exit 1; }
