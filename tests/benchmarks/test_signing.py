from pathlib import Path

from benchmarks.signing import measure
from service.provenance import Provenance
from service.settings import Settings


def test_a_signature_costs_bytes_and_an_edit_carries_that_of_its_image(tmp_path: Path) -> None:
    found = measure(Provenance(Settings(data_dir=tmp_path, watermark=False)), 64, "png", repeats=1)
    sizes = [found[name] for name in ("plain_bytes", "signed_bytes", "signed_edit_of_a_signed_picture_bytes")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
