"""Real uses of certifi: its bundle of certificates, read by Python and opened by OpenSSL."""

import importlib.metadata
import importlib.resources
import os
import re
import ssl

import certifi


def test_openssl_opens_the_bundle():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certifi.where())
    assert len(context.get_ca_certs()) > 100


def test_openssl_reads_what_contents_returns():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certifi.contents())
    assert len(context.get_ca_certs()) > 100


def test_the_bundle_lies_beside_the_module():
    assert os.path.dirname(certifi.where()) == os.path.dirname(certifi.__file__)
    with open(certifi.where(), encoding="ascii") as file:
        assert file.read() == certifi.contents()


def test_importlib_resources_finds_the_bundle():
    resource = importlib.resources.files("certifi") / "cacert.pem"
    assert resource.is_file()
    assert resource.read_text(encoding="ascii") == certifi.contents()
    with importlib.resources.as_file(resource) as path:
        assert path.stat().st_size == len(certifi.contents())


def test_the_version_is_the_distributions():
    numbers = [int(part) for part in re.findall(r"\d+", importlib.metadata.version("certifi"))]
    assert numbers == [int(part) for part in certifi.__version__.split(".")]


def test_the_typing_marker_is_there():
    assert os.path.exists(os.path.join(os.path.dirname(certifi.__file__), "py.typed"))
