#!/usr/bin/env bash
# coremltools' own tests in one process, predictions by this project's Python package.
#   run.sh                     every ML Program case of the tests of the operations (about 10,000)
#   run.sh PYTEST-ARGUMENTS…   others, e.g. run.sh coremltools.converters.mil.mil.ops.tests.iOS17.test_conv -k transpose
# COREMLTOOLS_TESTS_SAMPLE=3 takes three cases of every test function; see plugin.py for the rest.
# Needs: python3 (or PYTHON) with candle-coreml, coremltools==9.0 torch==2.7.0 "numpy<2.3" scikit-learn==1.5.2 pytest pillow scipy.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
[ $# -gt 0 ] || set -- coremltools.converters.mil.mil.ops.tests
exec "${PYTHON:-python3}" -m pytest -q -p plugin -p no:cacheprovider -W ignore --tb=line --no-header --pyargs "$@"
