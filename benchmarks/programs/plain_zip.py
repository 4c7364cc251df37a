"""The usual loader: one download of a zip, all of it extracted, its folder in front of the path."""

import os
import sys
import zipfile

import boto3

archive = os.environ["BENCH_TMP"] + "/packages.zip"
folder = os.environ["BENCH_TMP"] + "/packages"
boto3.client("s3").download_file(os.environ["BENCH_BUCKET"], os.environ["BENCH_KEY"], archive)
with zipfile.ZipFile(archive) as opened:
    opened.extractall(folder)
os.remove(archive)
sys.path.insert(0, folder)
exec(os.environ["BENCH_IMPORTS"])
os.write(int(os.environ["BENCH_READY"]), b"{}")
