"""The Secret that k8s/make_secret.py writes: new every time, and taken by the settings."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from service.certificates import load_key
from service.key_store import FORM
from service.settings import Settings
from tests.k8s.rendered import K8S, ROOT, pod, settings

DATABASE = "postgresql://hbridge:word@db.databases/hbridge"


def make_secret(*options: str) -> dict[str, Any]:
    command = [sys.executable, K8S / "make_secret.py", "--database-url", DATABASE, *options]
    made = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    secret: dict[str, Any] = yaml.safe_load(made.stdout)
    return secret


def test_a_pool_has_all_the_files_that_its_settings_name(tmp_path: Path) -> None:
    secret, other = make_secret("--limits-storage-url", "redis://:word@redis.databases"), make_secret()
    kubernetes_validate.validate(secret, "1.32", strict=True)
    files = secret["stringData"]
    named = {Path(text).name for text in settings("h100").values() if text.startswith("/run/secrets/")}
    assert {"bootstrap-key", "signing-key.pem", "signing-certificate.pem"} == named <= files.keys()
    (volume,) = (each for each in pod("h100")["volumes"] if each["name"] == "secrets")
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]

    given = {
        name.removeprefix("hbridge_"): text for name, text in files.items() if name.startswith("hbridge_")
    }
    read = Settings(**given)
    assert read.database == DATABASE
    assert read.link_key is not None
    assert read.webhook_secret is not None
    assert FORM.fullmatch(files["bootstrap-key"])
    for name in ("signing-key.pem", "signing-certificate.pem"):
        (tmp_path / name).write_text(files[name])
    load_key(tmp_path / "signing-key.pem", tmp_path / "signing-certificate.pem")

    kept = {"hbridge_database_url", "hbridge_limits_storage_url"}
    assert not {name for name in files.keys() - kept if files[name] == other["stringData"].get(name)}


def test_no_key_is_in_the_repository() -> None:
    words = "".join(path.read_text() for path in K8S.rglob("*") if path.suffix in {".yaml", ".env"})
    assert "kind: Secret\n" not in words
    assert not FORM.search(words)
    assert "PRIVATE KEY" not in words
