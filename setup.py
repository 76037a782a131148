"""Lists the packages: export/ and runtimes/ stand at the top of the repository and install below himix_edge.

OPTIMUM is a folder of one file in a namespace of optimum's, which finds its commands there. Everything else is in
pyproject.toml, which cannot say this.
"""

from setuptools import find_packages, setup

ELSEWHERE = ("export", "runtimes")
OPTIMUM = "optimum.commands.register"
folders = find_packages(include=["himix_edge", *ELSEWHERE, *(f"{name}.*" for name in ("himix_edge", *ELSEWHERE))])

setup(
    packages=[OPTIMUM, *(name if name.split(".")[0] == "himix_edge" else f"himix_edge.{name}" for name in folders)],
    package_dir={f"himix_edge.{name}": name for name in ELSEWHERE},
)
