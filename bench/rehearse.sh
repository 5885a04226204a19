#!/usr/bin/env bash
# The first runs rehearsed without a GPU: on a bare copy of the checkout, without git, a network and optional packages.
#
#   bench/rehearse.sh    into build/rehearsal; PYTHON: .venv/bin/python; LIMIT, TESTS: as first_run.sh has them
set -eu
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}") here=$PWD/build/rehearsal
rm -rf "$here"
mkdir -p "$here/copy" "$here/bin"
git ls-files --cached --others --exclude-standard | tar c --files-from=- | tar x -C "$here/copy"

# an environment of its own over the packages of this one, for the copy to be installed in
"$python" -m venv --without-pip "$here/environment"
"$python" -c 'import sys; print(*(path for path in sys.path if path.endswith("-packages")), sep="\n")' \
  >"$(echo "$here"/environment/lib/python*/site-packages)/those_of_this_one.pth"

# every program but git
for folder in ${PATH//:/ }; do ln -s "$folder"/* "$here/bin" 2>/dev/null || true; done
rm -f "$here"/bin/git*

export PYTHON=$here/environment/bin/python PATH=$here/bin PYTHONPATH=$here/copy/tests/bare REHEARSE=1
export http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9
code=0
OUT=$here/first "$here/copy/bench/first_run.sh" || code=$?
rm -rf "$here/copy/bench/parts"
PARTS=$here/first/parts.tgz OUT=$here/again "$here/copy/bench/first_run.sh" again || code=$?
exit $code
