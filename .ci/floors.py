"""Print the requirements of cnnmod, or of the named extras, with the oldest accepted version of each package."""

import re
import sys
from pathlib import Path

lines = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8").splitlines()
for name in sys.argv[1:]:
    start = "dependencies = [" if name == "base" else f"{name} = ["
    (line,) = (line for line in lines if line.startswith(start))
    for package, version in re.findall(r'"([\w-]+)>=([\w.]+)"', line):
        print(f"{package}=={version}")
