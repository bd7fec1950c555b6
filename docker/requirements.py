"""Prints what the image needs, one requirement a line: requirements.py PYPROJECT [--build]."""

import sys
import tomllib

EXTRAS = ("ray", "postgres", "timm", "parquet", "safetensors")

with open(sys.argv[1], "rb") as file:
    content = tomllib.load(file)
project = content["project"]
build = content["build-system"]["requires"] if "--build" in sys.argv else []
extras = [each for name in EXTRAS for each in project["optional-dependencies"][name]]
print(*build, *project["dependencies"], *extras, sep="\n")
