"""What a picture's signature costs: milliseconds (lower quartile, median, upper quartile) and bytes.

Run by `python -m benchmarks.signing`; writes benchmarks/results/signing.json.
"""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, get_args

from rich.console import Console

from benchmarks.clock import in_turns, spread
from model.images import Format, encode_image, pixels_hash
from service.manifest import Source, Statement
from service.provenance import Provenance
from service.terminal import settings_with
from training.record import write_record
from training.world import random_scene, render

OUTPUT = Path("benchmarks/results/signing.json")
SIDES = (64, 1024)
REPEATS = 25
screen = Console(stderr=True)


def main() -> None:
    """Measure and write the record."""
    with TemporaryDirectory() as folder:
        signing = Provenance(settings_with(data_dir=Path(folder), watermark=False))
        figures = {
            f"{side}_{image_format}": measure(signing, side, image_format)
            for side in SIDES
            for image_format in get_args(Format)
        }
    about = {"key": "P-256, development", "pictures": "a drawn scene of training.world"}
    write_record(OUTPUT, "python -m benchmarks.signing", {**about, "by_picture": figures})
    screen.print(f"written to {OUTPUT}")


def measure(
    signing: Provenance, side: int, image_format: Format, *, repeats: int = REPEATS
) -> dict[str, Any]:
    """Time a file with and without a signature, and checking it; count bytes, also those of an edit of it."""
    image = render(random_scene(Random(0), side, side))
    statement = Statement(model="hbridge-tiny", weights_sha256="0" * 64)

    def signed(stated: Statement = statement) -> bytes:
        return signing.write(image, image_format, None, stated)

    plain_file, signed_file = encode_image(image, image_format), signed()
    source = Source(pixels_sha256=pixels_hash(image), file=signed_file)
    edit = Statement(model="hbridge-tiny", weights_sha256="0" * 64, sources=(source,))
    ways = {
        "plain": lambda: encode_image(image, image_format),
        "signed": signed,
        "verify": lambda: signing.verify(signed_file, image),
    }
    taken = in_turns(ways, repeats=repeats)
    added = [
        1000 * (with_it - without) for with_it, without in zip(taken["signed"], taken["plain"], strict=True)
    ]
    return {
        "encode_milliseconds": spread([1000 * each for each in taken["plain"]]),
        "signature_adds_milliseconds": spread(added),
        "verify_milliseconds": spread([1000 * each for each in taken["verify"]]),
        "plain_bytes": len(plain_file),
        "signed_bytes": len(signed_file),
        "signed_edit_of_a_signed_picture_bytes": len(signed(edit)),
    }


if __name__ == "__main__":
    main()
