"""A start with shiv: boto3 fetches the zipapp, which then runs in this process. Its entry point is `shiv_entry`.

A zipapp is made to be executed. Running it here spares it the start of a second interpreter.
"""

import os
import runpy

import boto3

tmp = os.environ["BENCH_TMP"]
zipapp = tmp + "/app.pyz"
boto3.client("s3").download_file(os.environ["BENCH_BUCKET"], os.environ["BENCH_KEY"], zipapp)
os.environ["SHIV_ROOT"] = tmp + "/shiv"
runpy.run_path(zipapp, run_name="__main__")
