#!/usr/bin/env bash
# Installs the browser of the report's tests with Debian's packages, where there is none; as root.
set -euo pipefail
if command -v chromium chromedriver > /dev/null; then exit 0; fi
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
install || { apt-get update -qq && install; }
