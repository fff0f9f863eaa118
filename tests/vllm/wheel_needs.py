"""Print what a vLLM CPU wheel needs, less what is pinned to builds that the package index does not carry."""

import sys
import zipfile
from email.parser import Parser

UNFIT = ("torch", "setuptools==", "protobuf==7")

with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
for need in metadata.get_all("Requires-Dist", []):
    requirement, _, marker = need.partition(";")
    if "extra ==" not in marker and not requirement.startswith(UNFIT):
        print(requirement.strip())
