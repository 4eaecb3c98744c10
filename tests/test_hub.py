"""Sparse models on a local stand-in for the Hugging Face Hub."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

hub = pytest.importorskip("dirprune.integrations.hub")

REPO = "user/sparse"


class StandIn(BaseHTTPRequestHandler):
    """The few requests that the client makes to upload and to download a file."""

    files: dict[str, bytes]
    token: str | None = None

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, record: object) -> None:
        self._send(200, json.dumps(record).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Authorization"] == "Bearer secret"
        if self.path == "/api/repos/create":
            self._json({"url": f"http://{self.headers['Host']}/{REPO}", "id": REPO})
        elif self.path == "/api/validate-yaml":
            _, metadata, _ = json.loads(body)["content"].split("---\n", 2)
            assert yaml.safe_load(metadata)["library_name"] == "dirprune"
            self._json({"errors": [], "warnings": []})
        elif self.path == f"/api/models/{REPO}/preupload/main":
            paths = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": path, **regular} for path in paths]})
        elif self.path == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/{REPO}/commit/{'1' * 40}"
            self._json({"success": True, "commitUrl": url, "commitOid": "1" * 40})
        else:
            self._send(404, b"")

    def do_GET(self) -> None:
        name = self.path.removeprefix(f"/{REPO}/resolve/main/")
        if name not in self.files:
            self._send(404, b"", X_Error_Code="EntryNotFound")
            return
        data = self.files[name]
        etag = hashlib.sha256(data).hexdigest()
        self._send(200, data, ETag=f'"{etag}"', X_Repo_Commit="1" * 40)

    do_HEAD = do_GET


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty hub; downloads go to a temporary folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    StandIn.files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def sparse_network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p[torch.rand_like(p) < 0.9] = 0.0
    return net


def test_a_network_comes_back_with_its_outputs(endpoint: str) -> None:
    net, x = sparse_network(), torch.randn(4, 100)
    url = hub.push_to_hub(net, REPO, x, license="mit", token="secret", endpoint=endpoint)
    assert url == f"{endpoint}/{REPO}/commit/{'1' * 40}"
    again = hub.from_pretrained(REPO, endpoint=endpoint)
    torch.testing.assert_close(again(x), net(x))
    for name, tensor in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_card_says_what_the_file_holds(endpoint: str) -> None:
    net = sparse_network()
    hub.push_to_hub(
        net, REPO, torch.randn(2, 100), license="mit", token="secret", endpoint=endpoint
    )
    card = StandIn.files["README.md"].decode()
    zeros = sum(int((p == 0).sum()) for p in net.parameters())
    assert card.startswith("---\n")
    assert "license: mit\n" in card
    assert "library_name: dirprune\n" in card
    assert f"{zeros:,} of 5,560 stored values are zero" in card
    assert f"The file has {len(StandIn.files['model.dpz']) / 1e3:.1f} kB" in card
    program = card.split("```python\n")[2].split("```")[0]
    assert "Engine(hf_hub_download(" in program


def test_the_downloaded_file_runs_in_the_engine(endpoint: str) -> None:
    from dirprune._support import native
    from dirprune.deploy import Engine

    if native.extension() is None:
        pytest.skip("the C++ extension is not installed")
    net, x = sparse_network(), torch.randn(3, 100)
    hub.push_to_hub(net, REPO, x, token="secret", endpoint=endpoint)
    path = hub.hf_hub_download(REPO, hub.FILE, endpoint=endpoint)
    np.testing.assert_allclose(Engine(path)(x.numpy()), net(x).detach().numpy(), atol=1e-5)


def test_weights_alone_come_back_as_a_state_dict(endpoint: str) -> None:
    state = sparse_network().state_dict()
    hub.push_to_hub(state, REPO, token="secret", endpoint=endpoint)
    again = hub.from_pretrained(REPO, endpoint=endpoint)
    assert isinstance(again, dict)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert "Engine" not in StandIn.files["README.md"].decode()


def test_an_existing_card_is_kept(endpoint: str) -> None:
    StandIn.files = {"README.md": b"my own text"}
    hub.push_to_hub(sparse_network(), REPO, token="secret", endpoint=endpoint)
    assert StandIn.files["README.md"] == b"my own text"
    assert "model.dpz" in StandIn.files


def test_a_damaged_file_is_refused(endpoint: str) -> None:
    StandIn.files = {"model.dpz": b"no compact file"}
    with pytest.raises(ValueError, match=r"model\.dpz"):
        hub.from_pretrained(REPO, endpoint=endpoint)
