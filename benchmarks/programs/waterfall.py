"""A start with lazydeps whose imports are timed one by one; it writes these times and the whole report."""

import ast
import json
import os
import time

import lazydeps

statements = []
for node in ast.parse(os.environ["BENCH_IMPORTS"]).body:
    if isinstance(node, ast.Import):
        statements += [(alias.name, f"import {alias.name}") for alias in node.names]
    else:
        statements.append((ast.unparse(node), ast.unparse(node)))
imports = []
began = time.monotonic()
with lazydeps.load(directory=os.environ["BENCH_TMP"] + "/lazydeps"):
    for module, statement in statements:
        start = time.monotonic()
        exec(statement)
        imports.append({"module": module, "start": start - began, "end": time.monotonic() - began})
facts = {"imports": imports, "ready": time.monotonic() - began, "report": lazydeps.report().as_dict()}
os.write(int(os.environ["BENCH_READY"]), b" ")
with open(int(os.environ["BENCH_READY"]), "w") as ready:  # more than a pipe holds at once
    json.dump(facts, ready)
