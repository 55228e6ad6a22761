"""The commands `hbridge verify` and `hbridge replay`: where pictures come from, and the same ones again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.terminal import Device, Dtype, Model, Quantization, screen, settings_with, users_faults

if TYPE_CHECKING:
    from service.schemas.verify import StatementData, VerifyAnswer


def verify(file: Annotated[Path, typer.Argument(help="A picture's file, as it was received.")]) -> None:
    """Tell whether a picture is ours, and what its file says of its origin; ends with 1 if it is not."""
    from service.provenance import Provenance  # noqa: PLC0415 - see service.cli
    from service.uploads import open_one  # noqa: PLC0415

    with users_faults():
        settings = settings_with()
        data = file.read_bytes()
        answer = Provenance(settings).verify(data, open_one(data, "file", settings))
    _show(file, answer)
    if not answer.is_ours:
        raise typer.Exit(1)


def _show(file: Path, answer: "VerifyAnswer") -> None:
    credentials, mark = answer.content_credentials, answer.watermark
    table = Table(title=escape(f"{file}: {'ours' if answer.is_ours else 'not known to be ours'}"))
    table.add_column("what")
    table.add_column("found", overflow="fold")
    state = [
        word
        for word, holds in (
            ("valid" if credentials.valid else "not valid", credentials.present),
            ("trusted" if credentials.trusted else "not trusted", credentials.present),
            ("ours", credentials.ours),
        )
        if holds
    ]
    table.add_row("content credentials", ", ".join(state) or "none")
    for problem in credentials.problems:
        table.add_row("problem", escape(problem))
    if credentials.issuer or credentials.common_name:
        holder = " / ".join(part for part in (credentials.issuer, credentials.common_name) if part)
        table.add_row("signed by", escape(holder))
    if credentials.statement:
        for name, text in _stated(credentials.statement):
            table.add_row(name, escape(text))
    table.add_row(
        "watermark", f"{'found' if mark.present else 'none'} (score {mark.score}, {mark.threshold} is enough)"
    )
    screen.print(table)


def _stated(statement: "StatementData") -> list[tuple[str, str]]:
    rows = [
        ("made by AI", "yes" if statement.is_ai else "not stated"),
        ("software", statement.software),
        ("model", statement.model),
        ("weights", statement.weights_sha256),
        ("time", statement.time),
        ("actions", ", ".join(statement.actions)),
        ("prompt", statement.prompt),
    ]
    for each in statement.ingredients:
        own = "with credentials of its own" if each.has_credentials else "without credentials"
        rows.append(("made from", f"{each.title} ({each.relationship}, {each.identifier}), {own}"))
    return [(name, text) for name, text in rows if text]


def replay(
    receipt: Annotated[Path, typer.Argument(help="A receipt, or an answer that has one, as JSON.")],
    image: Annotated[
        list[Path] | None, typer.Argument(help="The images of an edit, in order.", metavar="[IMAGE]...")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; png, jpg, jpeg or webp.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="The mask of an edit.")] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Quantization = None,
) -> None:
    """Make a receipt's pictures again; ends with 1, and says what is different here, if a pixel differs."""
    import torch  # noqa: PLC0415 - see service.cli

    from model.images import open_mask  # noqa: PLC0415
    from service import local  # noqa: PLC0415
    from service import replay as replaying  # noqa: PLC0415
    from service.provenance import Provenance  # noqa: PLC0415
    from service.receipts import statement  # noqa: PLC0415
    from service.uploads import open_one  # noqa: PLC0415

    with users_faults():
        if output:
            local.check_output(output)
        asked = replaying.read_receipt(receipt)
        was = asked.provenance
        settings = settings_with(
            model=model,
            device=device,
            dtype=dtype,
            quantization=quantization,
            num_threads=asked.environment.num_threads,
            provenance="on" if was.content_credentials else "off",
            watermark=was.watermark,
        )
        torch.set_num_threads(asked.environment.num_threads)
        files = [path.read_bytes() for path in image or ()]
        images = [local.read_image(path) for path in image or ()]
        opened_mask = open_one(mask.read_bytes(), "mask", settings, opener=open_mask) if mask else None
        drawing = replaying.to_drawing(asked, images, opened_mask)
        loaded = local.load(settings, screen)
        with local.progress_bar(screen) as listen:
            replayed = replaying.replay(asked, drawing, loaded, listen)
        if output and replayed.drawn and replayed.is_same:
            stated = statement(loaded.card, drawing, files)
            local.write_drawn(replayed.drawn, drawing, output, Provenance(settings), stated)
    verdict = "the same pixels" if replayed.is_same else "other pixels" if replayed.drawn else "not drawn"
    screen.print(f"{receipt}: {verdict}", highlight=False, soft_wrap=True, markup=False)
    for difference in replayed.differences:
        screen.print(f"  {difference}", highlight=False, soft_wrap=True, markup=False)
    if not replayed.is_same:
        if not replayed.differences:
            screen.print("  nothing that the receipt names is different here", highlight=False)
        raise typer.Exit(1)
