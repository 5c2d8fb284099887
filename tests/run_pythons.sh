#!/bin/sh
# Run the tests on every Python that setup.cfg claims and that can be found on the PATH or in pyenv.
set -e
cd "$(dirname "$0")/.."
for version in 3.10 3.11 3.12 3.13; do
    python=$(command -v "python$version" || ls -d "$HOME"/.pyenv/versions/"$version".*/bin/python 2>/dev/null | tail -n 1)
    if [ -z "$python" ] || ! "$python" -c "" 2>/dev/null; then
        echo "Python $version: not found, not tested"
        continue
    fi
    echo "Python $version: $("$python" --version)"
    make --no-print-directory unit PYTHON="$python" VENV=".venv-$version"
done
