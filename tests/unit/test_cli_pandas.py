"""Commands do without pandas; code of the deployment's own finds it."""

from __future__ import annotations

import subprocess
import sys


def said(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_command_imports_no_pandas_where_pyarrow_would() -> None:
    script = "{}\nimport sys, pyarrow, pyarrow.dataset\npyarrow.array([1])\nprint('pandas' in sys.modules)"
    assert said(script.format("")) == "True\n"
    assert said(script.format("from lakehouse.cli.pandas import hide_pandas\nhide_pandas()")) == "False\n"


def test_a_run_takes_a_series_for_what_it_is() -> None:
    script = (
        "from lakehouse.cli.pandas import hide_pandas, show_pandas\nhide_pandas()\nshow_pandas()\n"
        "import pandas, pyarrow\nprint(pyarrow.array(pandas.Series([1.0, float('nan')])).null_count)"
    )
    assert said(script) == "1\n"
