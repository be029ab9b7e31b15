"""The command line, `ldct`: one command per stage, one line per error, exit codes that scripts can trust.

Commands import their stage when they run, so that `ldct --help` stays instant.
"""

from __future__ import annotations

import atexit
import difflib
import io
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperCommand

from pipeline import __version__
from pipeline.errors import PipelineError

app = typer.Typer(
    name="ldct",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""Of click, which some versions of typer carry within."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `ldct` and exit: 0 done, 1 failed, 2 wrong usage or settings, 3 partly done, 130 or 143 stopped.

    `LDCT_DEBUG=1` shows the traceback of an error and the warnings of the libraries.
    """
    debug = os.environ.get("LDCT_DEBUG", "0") != "0"
    if not debug:
        _silence_library_warnings()
    signal.signal(signal.SIGTERM, _stop)
    _write_any_text()
    _give_matplotlib_a_folder()
    try:
        sys.exit(app(args=arguments, prog_name="ldct", standalone_mode=False) or 0)
    except _UsageError as error:
        _say_wrong_usage(error)
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 - the outermost handler: every error leaves as one line
        if debug:
            traceback.print_exc()
        typer.secho(f"ldct: {_one_line(error)}", fg=typer.colors.RED, err=True)
        sys.exit(error.exit_code if isinstance(error, PipelineError) else 1)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ldct {__version__}")
        raise typer.Exit


Preset = Annotated[
    str | None,
    typer.Option(help="Folder under configs/ with the settings; without it the one in configs/preset.yaml."),
]


@app.callback()
def _ldct(
    *,
    version: Annotated[  # noqa: ARG001 (its callback does the work)
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Low-dose CT from DICOM to DICOM: make pairs, train, measure, clean and segment whole folders.

    `dvc repro` runs the stages below in this order, and only those whose code, data or settings changed.
    Research software: not for diagnosis.
    """
    if "SOURCE_DATE_EPOCH" in os.environ:  # checked before NumPy, which also reads it, trips over it
        from pipeline.config.clock import fixed_clock

        fixed_clock(os.environ)


simulations = typer.Typer()
app.add_typer(simulations, name="simulate", rich_help_panel="Stages")


@simulations.callback(invoke_without_command=True)
def simulate(context: typer.Context, preset: Preset = None) -> None:
    """Make phantom patients: DICOM at normal and low dose, with organ labels and the noise-free truth.

    Example: ldct simulate --preset smoke

    The commands below work on scans you have, and prove the physics.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = _choose(preset)
    from pipeline.stages import simulate as stage

    stage.run(chosen)


@simulations.command("dose")
def simulate_dose(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder with normal-dose CT series, searched to any depth.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the pairs and their manifest.")],
    dose: Annotated[
        list[float],
        typer.Option(help="Share of the dose to keep; for several doses repeat it: --dose 0.25 --dose 0.1."),
    ],
    flux: Annotated[
        str,
        typer.Option(
            help="Photons per ray at normal dose: `image` reads them from the image's own noise, `tags` from "
            "kVp, mAs and slice thickness, or a number such as 2e5."
        ),
    ] = "image",
    kernel: Annotated[
        str,
        typer.Option(
            help="Noise texture: `image` matches the series' own, or `ramp`, `hann`, or `hann:0.6`: a "
            "cut-off at 0.6 of the Nyquist frequency (up to 4)."
        ),
    ] = "image",
    geometry: Annotated[str, typer.Option(help="Rays of the scanner: `fan` or `parallel`.")] = "fan",
    bowtie: Annotated[
        str, typer.Option(help="Bow-tie filter: `auto` (by body part), `body`, `head` or `none`.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same noise.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Series side by side; without it what cores and memory allow, on a GPU one."
        ),
    ] = None,
) -> None:
    """Add the noise that a lower dose would have had to a folder of normal-dose CT series.

    Every series gets a derived DICOM series per dose, marked SIMULATED, with its own resolution, kernel and
    artefacts untouched; the predicted and the achieved noise stand beside it. A manifest of the pairs lies in
    OUT/manifest, ready for `ldct ingest`. A killed run continues where it stopped.

    Exit code 0: every CT series has its partners. 1: none has.
    2: wrong usage. 3: some series or files were refused or failed, with one line each.

    Example: ldct simulate dose /archive/normal /archive/pairs --dose 0.25 --dose 0.1
    """
    from pipeline.stages import dose as stage

    raise typer.Exit(
        stage.run(
            source,
            target,
            doses=dose,
            flux=flux,
            kernel=kernel,
            geometry=geometry,
            bowtie=bowtie,
            seed=seed,
            workers=workers,
        )
    )


@simulations.command("validate")
def simulate_validate(
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the page and its numbers.")
    ] = Path("reports/dose"),
) -> None:
    """Prove the dose physics on this machine: noise level, spectrum, bias and geometry against the theory.

    Prints each check with its figure and its limit and writes a page with the curves.
    Exit code 1 when a check fails.

    Example: ldct simulate validate, then open reports/dose/validation.html
    """
    from pipeline.stages import validate_dose as stage

    raise typer.Exit(stage.run(target))


manifests = typer.Typer(
    help="Find the pairs in a folder of scans, and check a manifest.", no_args_is_help=True
)
app.add_typer(manifests, name="manifest", rich_help_panel="Stages")


@manifests.command("scan")
def manifest_scan(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Root folder of the scans.")],
    target: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="Folder to write, e.g. data_manifests/mayo.")
    ],
) -> None:
    """Write the manifest of a data set: its pairs, pseudonyms, doses, digests and splits.

    Knows the Mayo/AAPM 2016 challenge, the TCIA LDCT-and-Projection-data collection and what `ldct simulate`
    writes; in any other archive it pairs series of one study, frame of reference and grid. Where two partners
    fit, it refuses and lists them.

    Exit code 0: all done. 1: no pair, nothing written.
    3: some series or files were refused, with one line each.

    Example: ldct manifest scan /data/mayo data_manifests/mayo
    """
    from pipeline.stages import manifest as stage

    raise typer.Exit(stage.scan(folder, target))


@manifests.command("check")
def manifest_check(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="Manifest folder, e.g. data_manifests/mayo.")
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that its paths are relative to.")],
) -> None:
    """Verify files, digests, pairing and patient-disjoint splits of a manifest; one line per fault.

    Exit code 0: sound. 1: faults.

    Example: ldct manifest check data_manifests/mayo /data/mayo
    """
    from pipeline.stages import manifest as stage

    raise typer.Exit(stage.check(manifest, root))


@manifests.command("conform")
def manifest_conform(
    manifest: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="Manifest folder, e.g. data_manifests/mayo.")
    ],
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that its paths are relative to.")],
    case: Annotated[
        str, typer.Option(help="The case that is patient L506 at 3 mm, kernel B30.")
    ] = "L506-3mm-B30",
) -> None:
    """Compare a copy of the Mayo/AAPM 2016 challenge with the literature, before any training.

    Scores the untouched quarter dose of patient L506 (3 mm, B30, convention redcnn-legacy, mean over slices)
    and prints it beside the published 29.2489 dB, 0.8759 and 14.2416 HU.

    Exit code 0: they agree. 1: they do not, or the manifest has no such case.

    Example: ldct manifest conform data_manifests/mayo /data/mayo
    """
    from pipeline.stages import conform as stage

    raise typer.Exit(stage.run(manifest, root, case))


@app.command(rich_help_panel="Stages")
def ingest(preset: Preset = None) -> None:
    """Read the pairs that a manifest lists, check them, and store them in HU with a picture per case.

    Example: ldct ingest --preset smoke
    """
    chosen = _choose(preset)
    from pipeline.stages import ingest as stage

    stage.run(chosen)


class _NamesBelow(TyperCommand):
    """A command whose help ends with the models and recipes that there are."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, as wide as the terminal."""
        from pipeline.config.preset import names_in_words

        self.epilog = names_in_words()
        super().format_help(ctx, formatter)


@app.command(cls=_NamesBelow, rich_help_panel="Stages")
def train(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Model of the preset, or recipe; they are listed below.")
    ],
    preset: Preset = None,
) -> None:
    """Train one model; a killed run continues where it stopped.

    NAME is a settings file without its ending: of the preset (configs/<preset>/), else of configs/recipes/.
    Several GPUs: torchrun --nproc-per-node 4 -m pipeline train NAME

    Example: ldct train redcnn, or with another learning rate and a record of it:
    dvc exp run -S configs/demo/redcnn.yaml:optim.lr=3e-4
    """
    chosen = _choose(preset)
    _check_name(name, _trainable(chosen))
    from pipeline.stages import train as stage

    stage.run(name, chosen)


@app.command(cls=_NamesBelow, rich_help_panel="Stages")
def evaluate(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="What was trained, listed below; or task: Dice on restored images."
        ),
    ],
    preset: Preset = None,
) -> None:
    """Score one model on test patients, under named metric conventions.

    Example: ldct evaluate redcnn
    """
    chosen = _choose(preset)
    _check_name(name, [*_trainable(chosen), "task"])
    from pipeline.stages import evaluate as stage

    stage.run(name, chosen)


@app.command(rich_help_panel="Stages")
def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with DICOM files, searched to any depth.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for programs instead of the table.")
    ] = False,
) -> None:
    """Tell what a folder of DICOM holds and what each series is fit for, from headers alone.

    Exit code 0: every CT series can be denoised. 1: no series can be denoised.
    2: wrong usage. 3: some series or files would be refused or failed, with one line each.

    Example: ldct inspect /archive/study, or for programs: ldct inspect /archive/study --json
    """
    from pipeline.stages import inspect as stage

    raise typer.Exit(stage.run(folder, as_json=as_json))


@app.command(rich_help_panel="Stages")
def predict(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder with DICOM series, searched to any depth.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the derived series and the journal.")
    ],
    denoiser: Annotated[
        Path | None,
        typer.Option(
            help="Denoiser weights. If no weights are named: the champions of the registry, and where "
            "there is none, or one that saw phantoms alone, the denoiser that ships with this program."
        ),
    ] = None,
    texture: Annotated[
        bool | None,
        typer.Option(
            "--texture/--no-texture",
            help="Which of the shipped denoisers: the one whose noise is nearer to that of a normal dose, or "
            "the one trained on the error alone (default).",
        ),
    ] = None,
    segmenter: Annotated[
        Path | None, typer.Option(help="Segmenter weights: adds a DICOM SEG to each series.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="YAML as configs/demo/predict.yaml; without it its defaults.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the correction to apply, 0 to 1; 0 keeps every pixel, 1 is all of it."),
    ] = None,
    noise_sd_hu: Annotated[
        float | None,
        typer.Option(
            help="Noise of every series in HU, which the denoiser is told; without it, as measured in each. "
            "For series with too little soft tissue to measure it.",
        ),
    ] = None,
    on_unfamiliar: Annotated[
        str | None,
        typer.Option(
            metavar="warn|pass|refuse",
            help="For a series unlike the training (a head, metal, denoised already, other HU, noise, "
            "spacing, thickness or kernel): treat it and say so, pass its files on untouched, or refuse it.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="auto|torch|openvino",
            help="What computes the networks: auto takes openvino, the faster one on a CPU, where that "
            "library is installed and loads. Segmenters run in torch.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|fp32|bf16|int8",
            help="Arithmetic of the networks: fp32 is exact, bf16 and int8 are faster and differ by a few "
            "percent of what is removed; int8 needs openvino. Every result says which it was.",
        ),
    ] = None,
    nifti: Annotated[
        bool | None, typer.Option("--nifti/--no-nifti", help="Write the volumes as NIfTI too.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read the files of finished series again, sources and results, and redo what differs.",
        ),
    ] = False,
) -> None:
    """Denoise and segment a folder of DICOM series; nothing is lost, nothing is guessed.

    Run it again to finish what was cut short or added: finished series are kept. Several runs may share
    one OUT; OUT/journal.html shows every series.

    Works right after installation: without --denoiser it takes the best one trained here, else the one
    that ships, and says which.

    Exit code 0: every CT series is done. 1: nothing was done.
    2: wrong usage or settings. 3: some series or files were refused or failed,
    with one line each saying why. 130: interrupted. 143: terminated.

    Example: ldct predict /archive/study /archive/cleaned --strength 0.7
    """
    from pipeline.stages import predict as stage

    raise typer.Exit(
        stage.run(
            source,
            target,
            denoiser=denoiser,
            texture=texture,
            segmenter=segmenter,
            settings=settings,
            strength=strength,
            noise_sd_hu=noise_sd_hu,
            on_unfamiliar=on_unfamiliar,
            engine=engine,
            precision=precision,
            nifti=nifti,
            verify=verify,
        )
    )


@app.command(rich_help_panel="Stages")
def export(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="Denoiser weights, e.g. models/demo/redcnn/bundle.safetensors."
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Ends in .onnx, or in .xml for OpenVINO (its .bin goes beside it)."
        ),
    ],
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|int8", help="Arithmetic of the layers; ONNX is written in fp32 only."
        ),
    ] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="DICOM to calibrate int8 on and to compare on: 16 slices of scans such as it will meet. "
            "Without it both happen on phantoms.",
        ),
    ] = None,
) -> None:
    """Write a denoiser as ONNX or OpenVINO, for programs other than this one.

    The file is read back and compared with torch; where it is too far off, none is left. It takes and gives
    network units, (HU - zero_hu) / unit_hu, as its metadata say. `ldct predict --engine openvino` needs no
    export. Needs openvino (pip install openvino), for ONNX also onnx and onnxscript, for int8 nncf.

    Example: ldct export models/demo/redcnn/bundle.safetensors redcnn.onnx
    """
    from pipeline.stages import export as stage

    stage.run(bundle, target, precision=precision, calibrate=calibrate)


@app.command(rich_help_panel="Stages")
def report(preset: Preset = None) -> None:
    """Write one HTML page with what ran, the scores and the pictures; it needs no network.

    Example: ldct report, then open reports/demo/report.html
    """
    chosen = _choose(preset)
    from pipeline.stages import report as stage

    stage.run(chosen)


@app.command(rich_help_panel="Stages")
def publish(preset: Preset = None) -> None:
    """Put trained weights into the package: pipeline/weights/, which `ldct predict` takes by default.

    The plain denoiser goes in as it is, its texture variant only if its scores keep the rules on noise
    texture, HU bias and detectability; each broken rule is one line with its numbers. The verdict is
    written to metrics/<preset>/texture_gate.json. Both must have been evaluated as they are.

    Example: ldct publish --preset reference
    """
    chosen = _choose(preset)
    from pipeline.stages import publish as stage

    stage.run(chosen)


@app.command(rich_help_panel="Stages")
def card(preset: Preset = None) -> None:
    """Write the model card of the denoiser in the package: docs/model_card.md and its pictures.

    Tells what is there: scores in metrics/, weights, manifests. What was not
    trained or measured is said to be so, with the command that does it.

    Scores need what git has not: the ingested cases, and the folder in
    evaluation/ of every model that is scored. Without them, as in a clone, and
    where scores are damaged or lack a part, it refuses, names the command to
    run, and the page that is there stays.

    Example: ldct card --preset reference
    """
    chosen = _choose(preset)
    from pipeline.stages import card as stage

    stage.run(chosen)


labs = typer.Typer(help="Small experiments on what the lectures claim.", no_args_is_help=True)
app.add_typer(labs, name="lab", rich_help_panel="Stages")


@labs.command("restoration")
def lab_restoration(
    target: Annotated[
        Path, typer.Option("--out", metavar="OUT", help="Folder for the page, its figures and its numbers.")
    ] = Path("docs/lab"),
    claim: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", help="Only claim 2, 3, 4, 6, 9 or 29; may be repeated: --claim 3 --claim 4."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what is finished.")] = False,
) -> None:
    """Put six claims of the lecture on image restoration to the test, three seeds each.

    The rule and the effect sizes stand in configs/lab/restoration.yaml before
    anything runs. The claims:

    2: restoration is denoising when H is the identity.
    3: deeper nets lose image detail.
    4: skips make a deeper net much easier to train.
    6: residual learning converges fast.
    9: the net removes noise effectively.
    29: one input of a deconvolution feeds many outputs.

    OUT/restoration.md gets a figure, the numbers and a verdict for each, and
    OUT/restoration.json all numbers. About 20 minutes on 2 cores for all six.
    Finished claims and trainings are kept until their settings change.

    Example: ldct lab restoration --claim 29, then open docs/lab/restoration.md
    """
    from pipeline.stages import lab as stage

    stage.run(target, claims=claim or (), fresh=fresh)


def _choose(preset: str | None) -> str:
    from pipeline.config.preset import choose_preset

    return choose_preset(preset)


def _trainable(preset: str) -> list[str]:
    from pipeline.config.preset import trainable_names

    return trainable_names(preset)


def _check_name(name: str, known: Sequence[str]) -> None:
    if name not in known:
        from pipeline.config.preset import presets_with

        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        elsewhere = " or ".join(f"--preset {preset}" for preset in presets_with(name))
        meant = f"{name} {elsewhere}" if elsewhere else "".join(near)
        hint = f"did you mean {meant}? " if meant else ""
        raise typer.BadParameter(f"{hint}{name!r} is not one of {', '.join(known)}", param_hint="NAME")


def _silence_library_warnings() -> None:
    """Also in worker processes: what a user can act on, this program says itself."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")


def _write_any_text() -> None:
    """A file name that the terminal's encoding lacks is written with escapes; it must not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _give_matplotlib_a_folder() -> None:
    """Where its own cannot be written it would say so; worker processes inherit the one named here."""
    home = os.path.expanduser("~")  # noqa: PTH111  unlike Path.home(), it never fails
    homes = (
        os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config",
        os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache",
    )
    if "MPLCONFIGDIR" in os.environ or all(_may_write(Path(folder, "matplotlib")) for folder in homes):
        return
    folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="ldct-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _may_write(folder: Path) -> bool:
    """Whether it, or the nearest folder above it that exists, takes a file; nothing stays."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            return True
    except (OSError, StopIteration):
        return False


def _stop(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    """Leave through `finally` blocks, so that files are closed and the MLflow run does not stay RUNNING."""
    sys.exit(128 + signal_number)


def _say_wrong_usage(error: Any) -> None:
    """One line, and where to read on; nothing where the help itself has just been shown."""
    message = " ".join(error.format_message().split())
    if message:
        command = "ldct" if error.ctx is None else error.ctx.command_path
        typer.secho(f"ldct: {message.rstrip('.')}; see {command} --help", fg=typer.colors.RED, err=True)


def _one_line(error: Exception) -> str:
    if isinstance(error, PipelineError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"unexpected {what} ({Path(frame.filename).name}:{frame.lineno}); LDCT_DEBUG=1 shows the traceback"
