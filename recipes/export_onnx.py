"""A trained model for ONNX Runtime and other runtimes: `model.onnx` with labels, contract and tokenizer beside it.

Windows are pooled to texts inside, any number of texts, windows and tokens fits, and the answers are compared with
those of torch before anything is left behind. bertcls/export/README.md shows how to run it alone.
Run:  python recipes/export_onnx.py --model_name_or_path runs/sst2
      python recipes/export_onnx.py --model_name_or_path runs/sst2 --output_dir exported --int8
"""

from pathlib import Path

from bertcls import export_onnx
from bertcls.process import OptionParser, one_line_errors
from bertcls.text import load_steps


def main(run_dir: str, output_dir: str | None = None, int8: bool = False, steps: str | None = None) -> dict:
    # 1. Export, check against torch, then give the folder its name
    if output_dir is None and not Path(run_dir).is_dir():  # a folder of that name would stand for the Hub's model
        raise ValueError(f"Found no folder {run_dir}; expected --output_dir for a model of the Hub. Give it.")
    load_steps(steps)
    folder = Path(output_dir) if output_dir is not None else Path(run_dir, "onnx")
    facts = export_onnx(run_dir, str(folder), int8=int8)

    # 2. What is there now
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    print(f"Largest difference from torch in a logit: {facts['difference']:.1e}")
    if int8:
        print(f"Largest difference of int8: {facts['int8_difference']:.1e}; compare its accuracy before you use it.")
    print(f'TextClassifier.from_pretrained("{folder}", backend="onnx") reads it.')
    return facts


if __name__ == "__main__":
    parser = OptionParser(__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="folder of a run, or its copy on the Hub")
    parser.add_argument("--output_dir", help="for the export, by default the folder onnx in that of the run")
    parser.add_argument("--int8", action="store_true", help="also write model_int8.onnx, with int8 linear layers")
    parser.add_argument("--steps", help="Python file with the cleaning steps that are the model's own")
    with one_line_errors():
        arguments = parser.parse_args()
        main(arguments.model_name_or_path, arguments.output_dir, arguments.int8, arguments.steps)
