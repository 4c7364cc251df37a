"""A start with serverless-python-requirements: its `unzip_requirements`, of a zip that boto3 has fetched."""

import os

import boto3
from work_imports import import_work, say_ready  # type: ignore[import-not-found]

tmp = os.environ["LAMBDA_TASK_ROOT"] = os.environ["BENCH_TMP"]
boto3.client("s3").download_file(os.environ["BENCH_BUCKET"], os.environ["BENCH_KEY"], tmp + "/.requirements.zip")

import unzip_requirements  # type: ignore[import-not-found]

folder = unzip_requirements.pkgdir
say_ready(import_work(os.listdir(folder), folder))
