"""``medmamba model``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from medmamba.cli._console import Exit, fail, out

app = typer.Typer(help="Look after trained networks.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group, also while it has one command."""


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(exists=True, help="The authors' file (.pth, .pt, .bin, .ckpt, .safetensors), or model folder."),
    ],
    family: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="NETWORK",
            help="umamba, segmamba, vim, vmamba, vivim, mambamorph or mamba; or a part of one, such as vim_mamba.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .safetensors file; for a model folder of U-Mamba, a folder.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            exists=True,
            dir_okay=False,
            help="JSON file with the arguments of the authors' constructor, by its names.",
            show_default="the authors' defaults",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle", help="Also read files whose objects can run programs. Only if you trust their source."
        ),
    ] = False,
) -> None:
    """Take over weights that were trained elsewhere.

    A **U-Mamba** that its authors' code trained becomes a folder with which `medmamba predict` works at once: give the
    folder that holds plans.json, dataset.json and fold_0.

    Of all other networks the weights are checked and written as safetensors, with a JSON file beside that says what
    they are of. `medmamba.pretrained.load` makes the network of the two.

    Examples:
        medmamba model import --from umamba nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres -o abdomen

        medmamba predict -i scans/ -o segmentations/ -m abdomen

        medmamba model import --from mamba pytorch_model.bin --config config.json -o mamba-130m.safetensors
    """
    from medmamba.pretrained import import_weights
    from medmamba.umamba_model import import_model

    try:
        if family == "umamba" and output.suffix != ".safetensors":
            if config is not None:
                fail("--config goes with a .safetensors output; a model folder has its plans.json", Exit.USAGE)
            runs = import_model(checkpoint, output, overwrite=overwrite, trust_pickle=trust_pickle)
            plan = runs[0].plan
            folds = ", ".join(run.info.fold for run in runs)
            out.print(f"{output}: {plan.network.name} {plan.configuration}, fold {folds}", markup=False)
            out.print(f"Next: medmamba predict -i IMAGES -o SEGMENTATIONS -m {shlex.quote(str(output))}", markup=False)
            return
        network = import_weights(
            family, checkpoint, output, _arguments(config), overwrite=overwrite, trust_pickle=trust_pickle
        )
    except FileExistsError as error:
        fail(str(error), Exit.USAGE)
    count = sum(parameter.numel() for parameter in network.parameters())
    out.print(f"{output}: {type(network).__name__}, {count} parameters", markup=False)
    out.print(f"Next, in Python: medmamba.pretrained.load(Path({str(output)!r}))", markup=False, highlight=False)


def _arguments(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        fail(f"{path} is not valid JSON ({error})")
    if not isinstance(arguments, dict):
        fail(f'{path} must hold an object such as {{"embed_dim": 192}}, got {type(arguments).__name__}')
    return arguments
