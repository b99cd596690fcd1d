"""``medmamba model``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medmamba.cli._console import command, say
from medmamba.errors import UsageError

app = typer.Typer(help="Look after trained networks.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group, also while it has one command."""


@app.command("import")
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="The authors' file (.pth, .pt, .bin, .ckpt, .safetensors), index of shards, or folder.",
        ),
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
            show_default="config.json of a folder; what the weights tell; the authors' defaults",
        ),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(
            "--entry",
            metavar="NAME",
            help="Which weights, if the file holds several: an entry such as model_ema, or a part such as student.",
            show_default="those averaged over training, if there are such",
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
    they are of. `medmamba.exchange.pretrained.load` makes the network of the two. Checkpoints may be whole or in shards
    with their index, as PyTorch, Lightning, timm, DeepSpeed or Hugging Face's transformers leave them; of a folder,
    give the folder. Where there are weights averaged over training (EMA) beside the last ones, the average is taken,
    unless --entry names others.

    Examples:
        medmamba model import --from umamba nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres -o abdomen

        medmamba predict -i scans/ -o segmentations/ -m abdomen

        medmamba model import --from mamba pytorch_model.bin --config config.json -o mamba-130m.safetensors

        medmamba model import --from mamba mamba-130m-hf/ -o mamba-130m.safetensors

        medmamba model import --from vmamba vssm.pth --entry model --config vssm.json -o vssm.safetensors
    """
    from medmamba.exchange.nnunet import import_model
    from medmamba.exchange.pretrained import import_weights
    from medmamba.io.places import check_output_files, check_output_folder

    inputs = [path for path in (checkpoint, config) if path is not None]
    if family == "umamba" and output.suffix != ".safetensors":
        check_output_folder(output, inputs=inputs)
        if config is not None:
            raise UsageError("--config goes with a .safetensors output; a model folder has its plans.json")
        if entry is not None:
            raise UsageError("--entry goes with a .safetensors output; a fold has one set of weights")
        runs = import_model(checkpoint, output, overwrite=overwrite, trust_pickle=trust_pickle)
        plan = runs[0].plan
        folds = ", ".join(run.info.fold for run in runs)
        say(f"{output}: {plan.network.name} {plan.configuration}, fold {folds}")
        say(f"Next: {command('predict', '-i', 'IMAGES', '-o', 'SEGMENTATIONS', '-m', output)}")
        return
    check_output_files([output, output.with_suffix(".json")], inputs=inputs)
    network = import_weights(
        family, checkpoint, output, config, entry=entry, overwrite=overwrite, trust_pickle=trust_pickle
    )
    count = sum(parameter.numel() for parameter in network.parameters())
    say(f"{output}: {type(network).__name__}, {count} parameters")
    say(f"Next, in Python: medmamba.exchange.pretrained.load(Path({str(output)!r}))")
