"""A Java that Spark can use, found before anything starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lakehouse.errors import ConfigurationError

VERSIONS = (17, 21)
"""Major versions that Spark 4.1 runs on; on 25 it fails in Hadoop (`getSubject is not supported`)."""

_REMEDY = "Install one (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to the folder of one."


def check_java() -> Path:
    """The `java` that Spark will start; ConfigurationError when there is none, or one of another version."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    allowed = f"Java {' or '.join(map(str, VERSIONS))}"
    if found is None or not Path(found).is_file():
        value = f"no {found}, where JAVA_HOME leads" if home else "no java on the PATH, and JAVA_HOME is not set"
        raise ConfigurationError("looking for Java, which Spark needs", value=value, allowed=allowed, remedy=_REMEDY)
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if match is None or int(match[1]) not in VERSIONS:
        raise ConfigurationError(
            "looking for Java, which Spark needs",
            value=f"{found}: {said.partition(chr(10))[0] or 'it says no version'}",
            allowed=allowed,
            remedy=_REMEDY,
        )
    return Path(found)
