"""Proxies, and passwords in addresses: used, but never shown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirror import packed
from promises import refused
from range_server import Fault

from imbdet.data.download import fetch
from imbdet.errors import UserError
from imbdet.settings import Coco2017Data, LvisData
from imbdet.urls import without_secrets

HIDDEN = pytest.mark.promise("A password in an address is in no message, manifest or record", "law")
PROXIED = pytest.mark.promise("Downloads go through the proxy of the study, or of the environment", "law")
letters = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#"), min_size=1)


@HIDDEN
@given(letters, st.sampled_from(["http", "https", "socks5h"]), st.sampled_from(["", ":8080"]))
def test_without_secrets_keeps_all_but_user_and_password(secret, scheme, port):
    plain = f"{scheme}://some.host{port}/a/b.zip?x=1"
    assert (
        without_secrets(f"first {plain.replace('://', f'://{secret}@')}, then {plain}")
        == f"first {plain}, then {plain}"
    )


@HIDDEN
@pytest.mark.parametrize(
    "fault", [Fault(404), Fault(503), Fault(body=b"x"), Fault(body=b"x", headers={"Content-Type": "text/html"})]
)
def test_messages_do_not_tell_the_password(tmp_path, serve, fault):
    server = serve(tmp_path)
    server.by_path["/zips/some.zip"] = fault
    url = server.url.replace("://", "://someone:hush@")
    with pytest.raises(UserError) as error:
        fetch(f"{url}/zips/some.zip", tmp_path / "some.zip")
    assert server.headers[0]["Authorization"].startswith("Basic ")
    assert "hush" not in str(error.value)
    assert server.url in str(error.value)


@HIDDEN
def test_the_message_of_a_full_disk_does_not_either(tmp_path, serve, monkeypatch):
    packed(tmp_path / "zips" / "some.zip", seed=0)
    url = serve(tmp_path).url.replace("://", "://someone:hush@")
    monkeypatch.setattr("imbdet.data.download.require_space", lambda folder, size, purpose: complain(purpose))
    with refused("downloading http://127.0.0.1"):
        fetch(f"{url}/zips/some.zip", tmp_path / "some.zip")


def complain(purpose):
    assert "hush" not in purpose
    raise UserError(purpose)


@HIDDEN
def test_records_do_not_tell_the_password():
    address = "http://someone:hush@some.host"
    for data in (
        Coco2017Data(source="coco2017", folder="data", base_url=address, proxy=address),
        LvisData(source="lvis_v1", folder="data", base_url=address, annotations_url=address, proxy=address),
    ):
        assert data.base_url == data.proxy == address
        assert "hush" not in json.dumps(data.model_dump(mode="json")) + data.model_dump_json()


@HIDDEN
@pytest.mark.parametrize("key", ["base_url", "annotations_url", "proxy"])
def test_an_address_that_is_refused_is_not_shown(make_study, key):
    lvis = {"source": "lvis_v1", "folder": "data", key: "someone:hush@some.host"}
    with refused(f"test.yaml: data.*{key} does not start with http:// or https://$"):
        make_study(lvis)


@PROXIED
@pytest.mark.parametrize("way", ["study", "environment"])
def test_a_proxy_is_asked_for_the_whole_address(tmp_path, serve, monkeypatch, way):
    packed(tmp_path / "remote" / "zips" / "some.zip", seed=0)
    proxy = serve(tmp_path / "remote")
    url = proxy.url
    proxy.url = "http://images.example"  # so that it finds the file behind the address that it is asked for
    if way == "environment":
        monkeypatch.setenv("http_proxy", url)
    digest = fetch("http://images.example/zips/some.zip", tmp_path / "some.zip", proxy=url if way == "study" else None)
    assert digest
    assert proxy.headers[0]["Host"] == "images.example"


@pytest.mark.promise("A download that cannot succeed says why and keeps what has arrived", "fault")
def test_a_proxy_out_of_reach_is_named_without_its_password(tmp_path, serve):
    server = serve(tmp_path)
    packed(tmp_path / "zips" / "some.zip", seed=0)
    server.close()
    with pytest.raises(UserError, match=r"images.example.*[Pp]roxy.*check data.base_url, data.proxy") as error:
        fetch("http://images.example/x.zip", tmp_path / "x.zip", proxy=server.url.replace("://", "://a:hush@"))
    assert "hush" not in str(error.value)


def test_a_proxy_is_not_asked_for_what_is_excepted(tmp_path, serve, monkeypatch):
    packed(tmp_path / "zips" / "some.zip", seed=0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fetch(f"{serve(tmp_path).url}/zips/some.zip", tmp_path / "some.zip")  # the fixture sets NO_PROXY
