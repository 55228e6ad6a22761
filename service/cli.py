"""The command line: serve, or one request without a server.

Commands import what stands on PyTorch and diffusers only when they run: these take seconds, and `--help` or a
mistyped option should not.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from service import logs
from service.evidence import replay, verify
from service.keys import app as keys
from service.terminal import (
    USERS_FAULT,
    Device,
    Dtype,
    LoadFormat,
    Model,
    Offload,
    Quantization,
    screen,
    settings_with,
    users_faults,
)

app = typer.Typer(
    help="One model that makes, edits and understands images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write; png, jpg, jpeg or webp.")]
Seed = Annotated[int | None, typer.Option(help="Drawn when left out; picture i uses seed + i.")]
PictureSize = Annotated[str | None, typer.Option("--size", help="WIDTHxHEIGHT in pixels.")]
Steps = Annotated[int | None, typer.Option(help="Flow steps; the model's default when left out.")]
Scale = Annotated[float | None, typer.Option("--guidance", help="Text guidance; 1 is off.")]
ImageScale = Annotated[float | None, typer.Option("--image-guidance", help="Image guidance; 1 is off.")]
Negative = Annotated[str, typer.Option("--negative-prompt", help="What to lean away from.")]
Count = Annotated[int, typer.Option("-n", "--n", min=1, max=8, help="Pictures from one prompt.")]
Solver = Annotated[str, typer.Option(help="euler or dpmpp_2m.")]
ReceiptFile = Annotated[
    Path | None, typer.Option("--receipt", help="JSON file to write, from which `hbridge replay` starts.")
]


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on (HBRIDGE_HOST).")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one (HBRIDGE_PORT).")
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    load_format: LoadFormat = None,
    quantization: Quantization = None,
    offload: Offload = None,
    attention: Annotated[
        str | None,
        typer.Option(help="auto, sdpa, plain, cudnn, varlen, xformers or triton (HBRIDGE_ATTENTION)."),
    ] = None,
    compile_steps: Annotated[
        str | None,
        typer.Option("--compile", help="off, graphs or on: prepare steps at the start (HBRIDGE_COMPILE)."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="process, or inline for a thread of the server (HBRIDGE_ENGINE).")
    ] = None,
) -> None:
    """Serve the HTTP API. Options go before HBRIDGE_* in the environment."""
    from service.hub import locate  # noqa: PLC0415
    from service.loading import create_client  # noqa: PLC0415
    from service.server import Server  # noqa: PLC0415

    with users_faults():
        settings = settings_with(
            host=host,
            port=port,
            model=model,
            device=device,
            dtype=dtype,
            load_format=load_format,
            quantization=quantization,
            offload=offload,
            attention=attention,
            compile=compile_steps,
            engine=engine,
        )
        logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
        # A download may take longer than an engine may load; the engine then finds it in the cache.
        locate(settings.model, weights=settings.load_format == "auto")
        server = Server(settings, create_client(settings))
        asyncio.run(server.run_until_stopped(greet))


def greet(url: str, warning: str) -> None:
    """Say where the service is, and what is wrong there."""
    screen.print(
        f"hbridge is ready at [link={url}]{url}[/] (documentation: {url}/docs)",
        highlight=False,
        soft_wrap=True,
    )
    if warning:
        screen.print(f"[bold yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Output,
    *,
    seed: Seed = None,
    size: PictureSize = None,
    steps: Steps = None,
    guidance: Scale = None,
    negative_prompt: Negative = "",
    n: Count = 1,
    solver: Solver = "euler",
    receipt: ReceiptFile = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make pictures from words."""
    from service import local  # noqa: PLC0415

    with users_faults():
        drawing = local.Drawing(
            prompt=prompt,
            negative_prompt=negative_prompt,
            size=local.read_size(size, is_edit=False) if size else None,
            n=n,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            solver=solver,
        )
        settings = settings_with(model=model, device=device, dtype=dtype)
        local.draw_to_file(drawing, output, settings, screen, receipt=receipt)


def edit(
    image: Annotated[
        list[Path], typer.Argument(help="The pictures to edit, then the instruction.", metavar="IMAGE...")
    ],
    prompt: Annotated[str, typer.Argument(help="What to change.")],
    output: Output,
    *,
    seed: Seed = None,
    size: PictureSize = None,
    steps: Steps = None,
    guidance: Scale = None,
    image_guidance: ImageScale = None,
    negative_prompt: Negative = "",
    n: Count = 1,
    solver: Solver = "euler",
    receipt: ReceiptFile = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Make pictures from pictures and an instruction."""
    from service import local  # noqa: PLC0415

    with users_faults():
        drawing = local.Drawing(
            prompt=prompt,
            images=tuple(local.read_image(path) for path in image),
            negative_prompt=negative_prompt,
            size=local.read_size(size, is_edit=True) if size else None,
            n=n,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            image_guidance_scale=image_guidance,
            solver=solver,
        )
        settings = settings_with(model=model, device=device, dtype=dtype)
        local.draw_to_file(drawing, output, settings, screen, sources=image, receipt=receipt)


def understand(
    image: Annotated[list[Path], typer.Argument(help="The pictures, then the question.", metavar="IMAGE...")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    *,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest word every time.")] = 0.0,
    seed: Seed = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Answer a question about pictures, on standard output."""
    from service import local  # noqa: PLC0415

    with users_faults():
        settings = settings_with(model=model, device=device, dtype=dtype)
        turn = local.Turn("user", (*(local.read_image(path) for path in image), question))
        asked = local.Question(turns=(turn,), max_tokens=max_tokens, temperature=temperature, seed=seed)
        typer.echo(local.ask(asked, settings, screen))


def convert(
    understanding: Annotated[str, typer.Argument(help="Qwen2.5-VL: a folder, or a Hugging Face id.")],
    generation: Annotated[str, typer.Argument(help="OmniGen2: a folder, or a Hugging Face id.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not be there yet.")],
    *,
    bridge: Annotated[
        Path | None, typer.Option(help="Trained weights of the bridge: a safetensors file, or a folder.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="identity or zero: where a bridge without weights begins.")
    ] = "identity",
    config: Annotated[
        Path | None, typer.Option(help="JSON of fields of the config that are to differ from the defaults.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as each weight is when left out.")
    ] = None,
) -> None:
    """Make an hbridge checkpoint of two published models."""
    from service.checkpoints import convert_models  # noqa: PLC0415

    with users_faults():
        convert_models(
            understanding, generation, out, screen, bridge=bridge, start=start, config=config, dtype=dtype
        )


def fetch(*, model: Model = None) -> None:
    """Download a model's files, check them, and write the SHA-256 of its weights on standard output.

    A server with the same HBRIDGE_MODEL and HF_HOME then needs no network. HBRIDGE_WEIGHTS_SHA256 is the hash
    that is expected.
    """
    from service.checkpoints import fetch_model  # noqa: PLC0415

    with users_faults():
        settings = settings_with(model=model)
        logs.configure(settings.log_format, settings.log_level, has_content=settings.log_content)
        typer.echo(fetch_model(settings))


def size(model: Annotated[str, typer.Argument(help="Folder, short name, or Hugging Face id.")]) -> None:
    """Count a model's weights and what they take in memory, from its config alone."""
    from service.checkpoints import size_table  # noqa: PLC0415

    with users_faults():
        typer.echo(size_table(model))


def doctor(
    *,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    load_format: LoadFormat = None,
    quantization: Quantization = None,
    offload: Offload = None,
    size: Annotated[
        list[str] | None, typer.Option("--size", help="WIDTHxHEIGHT of a picture; may be given again.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures at once; may be given again.")
    ] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0.001, help="Judge a device with so much free memory, not this one.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the model and take a real step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what this machine can serve and how fast it should be; ends with 1 if it cannot serve the model."""
    from service.doctor.command import run  # noqa: PLC0415

    with users_faults():
        settings = settings_with(
            model=model,
            device=device,
            dtype=dtype,
            load_format=load_format,
            quantization=quantization,
            offload=offload,
        )
        can_serve = run(
            settings, screen, sizes=size, counts=batch, memory_gb=memory_gb, measures=measure, as_json=as_json
        )
    if not can_serve:
        raise typer.Exit(1)


# Every command of `hbridge`, by name.
COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve,
    "generate": generate,
    "edit": edit,
    "understand": understand,
    "fetch": fetch,
    "convert": convert,
    "size": size,
    "doctor": doctor,
    "verify": verify,
    "replay": replay,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(keys, name="keys")


def add_training() -> None:
    """Add the commands of the training package, whose libraries are the extra `train`."""
    from training.cli import examine, train  # noqa: PLC0415 - serving must not need the extra

    app.command("train")(train)
    app.command("eval")(examine)


def add_benchmarks() -> None:
    """Add the commands of the benchmarks package, whose libraries are the extra `bench`."""
    from benchmarks.cli import app as bench  # noqa: PLC0415 - serving must not need the extra

    app.add_typer(bench, name="bench")


UNPACKAGED = ("training", "benchmarks")
"""What an installed hbridge leaves in the repository."""

# What adds a command, and the extra that it needs.
ADDED: dict[str, tuple[Callable[[], None], str]] = {
    "train": (add_training, "train"),
    "eval": (add_training, "train"),
    "bench": (add_benchmarks, "bench"),
}


def remedy(error: ModuleNotFoundError, asked: str, extra: str) -> str:
    """Say what a command that cannot be added lacks: the repository, which no package holds, or an extra."""
    if error.name and error.name.partition(".")[0] in UNPACKAGED:
        return f"hbridge {asked} works in a checkout of the repository only, after make install"
    return f"{error}; install hbridge\\[{extra}]"


def main() -> None:
    """Run the command line."""
    logs.hush()
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    wanted = ADDED.values() if asked == "--help" else [ADDED[asked]] if asked in ADDED else []
    for add, extra in dict.fromkeys(wanted):
        try:
            add()
        except ModuleNotFoundError as error:
            if asked in ADDED:
                screen.print(f"[bold red]error:[/] {remedy(error, asked, extra)}", highlight=False)
                sys.exit(USERS_FAULT)
    app()
