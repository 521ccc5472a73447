"""`anyphoto generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from anyphoto_cli.cli import console
from anyphoto_cli.cli.app import DOCS
from anyphoto_cli.cli.options import FacePack, Json, Quiet, RefsRoot, Verbose, described
from anyphoto_cli.config.generate import GenerateConfig
from anyphoto_cli.config.load import load_config
from anyphoto_cli.errors import InputError

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
SPEED, LOOKING, CREDENTIALS = "Speed and memory", "Looking at the pictures", "Content credentials"
Device = Annotated[str | None, described(GenerateConfig, "device", rich_help_panel=SPEED)]
Dtype = Annotated[str | None, described(GenerateConfig, "dtype", rich_help_panel=SPEED)]
Memory = Annotated[str | None, described(GenerateConfig, "memory", rich_help_panel=SPEED)]
Attention = Annotated[str | None, described(GenerateConfig, "attention", rich_help_panel=SPEED)]
Compile = Annotated[
    bool | None,
    described(
        GenerateConfig,
        "compile",
        "--compile/--no-compile",
        rich_help_panel=SPEED,
        envvar="ANYPHOTO_GENERATE_COMPILE",
    ),
]
Batch = Annotated[int | None, described(GenerateConfig, "batch", rich_help_panel=SPEED)]
Cache = Annotated[float | None, described(GenerateConfig, "cache", metavar="CHANGE", rich_help_panel=SPEED)]
Verify = Annotated[
    bool, typer.Option("--verify", rich_help_panel=LOOKING, help="Look at each picture: who is there, and where.")
]
Annotate = Annotated[
    bool,
    typer.Option(
        "--annotate",
        rich_help_panel=LOOKING,
        help="Also write copies with boxes and names; looks as --verify does.",
    ),
]
BestOf = Annotated[
    int | None,
    typer.Option(
        "--best-of", rich_help_panel=LOOKING, help="Render K seeds for each picture, keep the best.", metavar="K"
    ),
]
RetryUntil = Annotated[
    float | None,
    typer.Option(
        "--retry-until",
        rich_help_panel=LOOKING,
        help="Seed after seed until every face reaches this cosine.",
        metavar="COS",
    ),
]
MaxTries = Annotated[
    int | None,
    typer.Option("--max-tries", rich_help_panel=LOOKING, help="Most seeds of --retry-until; default: 8.", metavar="K"),
]
C2pa = Annotated[
    bool,
    typer.Option(
        "--c2pa",
        rich_help_panel=CREDENTIALS,
        help="Sign the pictures with content credentials; see anyphoto provenance.",
    ),
]
C2paCert = Annotated[
    Path | None,
    typer.Option(
        "--c2pa-cert",
        rich_help_panel=CREDENTIALS,
        help="Your certificate chain; default: a local test one.",
        metavar="PEM",
    ),
]
C2paKey = Annotated[
    Path | None,
    typer.Option("--c2pa-key", rich_help_panel=CREDENTIALS, help="Its private key, ES256.", metavar="PEM"),
]
_EXAMPLES = f"""Examples:

anyphoto generate examples/three_friends.json -o out

anyphoto generate beach.json --model flux-dev --adapter my-adapter --num-images 4 --seed 7

{DOCS}"""


@app.command(epilog=_EXAMPLES, no_args_is_help=True)
def generate(
    context: typer.Context,
    layouts: Annotated[
        list[Path] | None, typer.Argument(metavar="LAYOUT.json|FOLDER...", help="Layouts to render.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the pictures; default: out, with --from the PNG's own."),
    ] = None,
    again: Annotated[
        Path | None,
        typer.Option(
            "--from", envvar="ANYPHOTO_GENERATE_FROM", help="Render the picture of this PNG once more.", metavar="PNG"
        ),
    ] = None,
    model: Annotated[str | None, described(GenerateConfig, "model", metavar="NAME|ID|DIR")] = None,
    adapter: Annotated[str | None, described(GenerateConfig, "adapter", metavar="DIR|ID")] = None,
    face_pack: FacePack = None,
    seed: Annotated[int | None, described(GenerateConfig, "seed")] = None,
    num_images: Annotated[int | None, described(GenerateConfig, "num_images", "--num-images", "-n")] = None,
    steps: Annotated[int | None, described(GenerateConfig, "steps")] = None,
    strength: Annotated[float | None, described(GenerateConfig, "strength")] = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    attention: Attention = None,
    compile_: Compile = None,
    batch: Batch = None,
    cache: Cache = None,
    lora: Annotated[list[str] | None, described(GenerateConfig, "lora", metavar="FILE|ID[@SCALE]")] = None,
    refs_root: RefsRoot = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that exist.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave refused layouts out; exit code 3.")] = False,
    verify: Verify = False,
    annotate: Annotate = False,
    best_of: BestOf = None,
    retry_until: RetryUntil = None,
    max_tries: MaxTries = None,
    c2pa: C2pa = False,
    c2pa_cert: C2paCert = None,
    c2pa_key: C2paKey = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, load no model, render nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Render pictures from layout files.

    Pictures are named <layout>_seed<seed>.png; those that are finished already are skipped. Without --adapter the
    picture carries no trained identity: there is no public AnyPhoto checkpoint. With --verify the exit code is 3 where
    a picture does not pass.
    """
    console.hush_libraries(verbose)
    given = dict(model=model, adapter=adapter, face_pack=face_pack, seed=seed, num_images=num_images, steps=steps,
                 strength=strength, device=device, dtype=dtype, memory=memory, attention=attention, compile=compile_,
                 batch=batch, cache=cache, lora=tuple(lora) if lora else None)  # fmt: skip
    config = load_config(GenerateConfig, given=given if again is None else _beside_a_record(context, given))
    listener = console.Terminal(quiet or as_json)
    if again is not None:
        if refused := _given_beside(context, _NOT_WITH_FROM):
            raise InputError(f"takes no {', '.join(refused)} beside it", field="--from")
        return _again(again, layouts, out, config, refs_root, overwrite, as_json, listener)
    if not layouts:
        raise InputError("name a layout file or a folder", field="LAYOUT", remedy="Or a picture with --from")
    sign = _signer(c2pa, c2pa_cert, c2pa_key, listener)
    looking = _Looking(verify or annotate, annotate, best_of, retry_until, max_tries)
    if looking.choice is not None:
        return _best(layouts, out or Path("out"), config, looking, refs_root, overwrite, keep_going or dry_run, as_json,
                     listener, sign)  # fmt: skip
    shared = dict(refs_root=refs_root, overwrite=overwrite, dry_run=dry_run, listener=listener,
                  keep_going=keep_going or dry_run)  # fmt: skip
    rendered, verified = _rendered(layouts, out or Path("out"), config, looking, shared, as_json)
    if not dry_run:
        sign([picture.path for picture in rendered.pictures])
    sign([one.annotated for one in verified if one.annotated])
    code = _told(rendered, verified, dry_run, as_json, listener)
    return 2 if dry_run and rendered.refused and not keep_going else code


_NOT_WITH_FROM = ("seed", "steps", "num_images", "strength", "dry_run", "keep_going", "verify", "annotate", "best_of",
                  "retry_until", "max_tries", "c2pa", "c2pa_cert", "c2pa_key")  # fmt: skip


_MACHINE = ("device", "memory", "attention", "compile", "batch")


def _told(rendered: Any, verified: list[Any], dry_run: bool, as_json: bool, listener: console.Terminal) -> int:
    """Print what came out and what was left out. Returns the exit code."""
    if as_json or not verified:  # verdicts are shown as they come
        _show(rendered, dry_run, as_json, verified, listener.cautions)
    for line in rendered.refused:
        if dry_run and not as_json:
            console.result(f"{line}  (refused)")
        else:
            listener.caution(f"left out: {line}")
    if rendered.refused:
        return 3 if rendered.pictures else 2
    return 3 if any(one.verdict.passed is False for one in verified) else 0


def _beside_a_record(context: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Without what stands in the environment only: what made a picture its record knows. What the machine can do, the
    environment.
    """
    sources = {name: context.get_parameter_source(name) for name in given}
    asked = {name for name, source in sources.items() if source is None or source.name != "ENVIRONMENT"}
    return {name: value for name, value in given.items() if name in asked or name in _MACHINE}


def _given_beside(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Those options that stand on the command line. What the environment says is a default, and contradicts nobody."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [
        f"--{name.replace('_', '-')}" for name, source in sources.items() if source and source.name == "COMMANDLINE"
    ]


@dataclass(frozen=True)
class _Looking:
    """What was asked for beside rendering. Raises InputError where it contradicts itself."""

    asked: bool
    annotate: bool
    best_of: int | None
    retry_until: float | None
    max_tries: int | None

    def __post_init__(self) -> None:
        if self.best_of is not None and self.retry_until is not None:
            raise InputError("either that or --best-of", field="--retry-until")
        if self.max_tries is not None and self.retry_until is None:
            raise InputError("belongs to --retry-until", field="--max-tries")

    @property
    def choice(self) -> Any:
        """None where one seed makes one picture."""
        if self.best_of is None and self.retry_until is None:
            return None
        from anyphoto_cli.generate.best_of import Choice

        if self.best_of is not None:
            return Choice(self.best_of)
        return Choice(8 if self.max_tries is None else self.max_tries, True)

    @property
    def config(self) -> Any:
        """What a picture is held to."""
        from anyphoto_cli.config.verify import VerifyConfig

        try:
            return load_config(VerifyConfig, given={"threshold": self.retry_until})
        except InputError as error:
            raise InputError(error.what, field="--retry-until") from error


def _signer(asked: bool, certificate: Path | None, key: Path | None, listener: console.Terminal) -> Any:
    """Signs pictures, where that was asked for; what it needs is looked for before anything is rendered."""
    if not asked:
        if certificate is not None or key is not None:
            raise InputError("belongs to --c2pa", field="--c2pa-cert" if certificate is not None else "--c2pa-key")
        return lambda files: None
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials

    credentials = read_credentials(certificate, key)
    if credentials.test:
        listener.caution("signing with a test certificate made on this machine: it shows tampering, nobody trusts it")
    return lambda files: sign_pictures(files, credentials)


def _rendered(
    layouts: Any, out: Path, config: GenerateConfig, looking: _Looking, shared: dict[str, Any], as_json: bool
) -> tuple[Any, list[Any]]:  # fmt: skip
    """(what was rendered, verdicts where they were asked for, shown as they come). shared: options of both ways."""
    if not looking.asked:
        from anyphoto_cli.generate import render

        return render(layouts, out, config, **shared), []
    from anyphoto_cli.cli.verify import show
    from anyphoto_cli.generate.judged import render_judged

    listener = shared["listener"]
    return render_judged(layouts, out, config, looking.config, annotate=looking.annotate, **shared,
                         on_verified=lambda one: None if as_json else show(one, listener))  # fmt: skip


def _best(
    layouts: Any, out: Path, config: GenerateConfig, looking: _Looking, refs_root: Path | None, overwrite: bool,
    beside: bool, as_json: bool, listener: console.Terminal, sign: Any,
) -> int:  # fmt: skip
    from anyphoto_cli.cli.verify import as_document, exit_code, show
    from anyphoto_cli.generate.best_of import render_best

    if beside:
        raise InputError("takes no --dry-run or --keep-going beside it", field="--best-of")
    kept = render_best(layouts, out, config, looking.choice, looking.config, annotate=looking.annotate,
                       refs_root=refs_root, overwrite=overwrite, listener=listener)  # fmt: skip
    sign([file for one in kept for file in (one.verified.picture, one.verified.annotated) if file])
    if as_json:
        pictures = [as_document(one.verified) | {"seed": one.seed, "tries": len(one.tries)} for one in kept]
        adapter = _adapter_of(kept[0].verified.picture) if kept else None
        console.document({"pictures": pictures, "adapter": adapter, "warnings": listener.cautions})
    else:
        for one in kept:
            show(one.verified, listener)
    return exit_code([one.verified for one in kept])


def _again(
    again: Path, layouts: Any, out: Path | None, config: GenerateConfig, refs_root: Path | None, overwrite: bool,
    as_json: bool, listener: console.Terminal,
) -> int:  # fmt: skip
    if layouts:
        raise InputError("takes no layouts beside it", field="--from")
    from anyphoto_cli.generate import render_again

    picture, same = render_again(again, out, config, refs_root=refs_root, overwrite=overwrite, listener=listener)
    if as_json:
        why = {} if same else {"why": picture.differs}
        told = {"picture": str(picture.path), "seed": picture.seed, "identical": same} | why
        console.document(told | {"adapter": _adapter_of(picture.path), "warnings": listener.cautions})
    else:
        said = "identical, pixel for pixel" if same else f"differs from the original: {picture.differs}"
        console.result(f"{picture.path}  {said}")
    return 0 if same else 3


def _adapter_of(picture: Path) -> Any:
    """What a picture says of its AnyPhoto weights; None where it has none."""
    from anyphoto_cli.generate.png_metadata import read_record

    return read_record(picture)["adapter"]


def _show(rendered: Any, dry_run: bool, as_json: bool, verified: Any, cautions: list[str]) -> None:
    if as_json:
        verdicts = {one.picture: {"verdict": one.verdict.to_json()} for one in verified}
        pictures = [
            {"path": str(p.path), "layout": p.layout, "seed": p.seed, "skipped": p.skipped} | verdicts.get(p.path, {})
            for p in rendered.pictures
        ]
        told = {"pictures": pictures, "refused": list(rendered.refused), "dry_run": dry_run}
        console.document(told | {"adapter": rendered.adapter, "warnings": cautions})
        return
    for picture in rendered.pictures:
        said = "finished before" if picture.skipped else "not rendered: dry run"
        console.result(f"{picture.path}{f'  ({said})' if dry_run else ''}")
