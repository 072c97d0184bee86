"""Label a file or a data set of any size with a trained model, or one text, or lines as they are typed.

Data: csv, tsv, json, jsonl, parquet or txt, compressed or not, a folder or a Hub id, as in the recipes; no labels.
Run:  python recipes/predict.py --model_name_or_path runs/mine --dataset_name mine.csv --output_file labels.parquet
      accelerate launch --multi_gpu recipes/predict.py ...    (all GPUs; on several machines to a folder that all see)
      python recipes/predict.py ... --shard 3/16              (of a job array; then without --shard, which joins them)
      python recipes/predict.py --model_name_or_path runs/mine --text "Never again."
      python recipes/predict.py --model_name_or_path runs/mine --text -         (a line of standard input, a line out)

The output has the rows of the data in their order: id, its columns, label, score, the probability of every class.
A run that was killed goes on where it was when the same command is started again.
"""

import os
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # as in the other recipes

from tqdm.auto import tqdm

from bertcls import TextClassifier
from bertcls.data.streams import stream_rows
from bertcls.process import one_line_errors
from bertcls.serve.bulk import (
    Survey,
    check_output,
    check_pairs,
    describe_missing,
    describe_prediction,
    describe_program,
    lines_of_standard_input,
    merge_parts,
    open_parts,
    predict_parts,
    start_processes,
)
from bertcls.text import load_steps
from bertcls.together import from_rank_0, meet, staying_together
from bertcls.training.options import parse_options

SOURCE = ("split", "text_column", "text_pair_column", "id_column", "encoding", "delimiter", "streaming")  # of the data


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "Folder that a recipe saved, or its copy on the Hub."})
    backend: str = field(default="torch", metadata={"help": "torch, or onnx for a folder that export_onnx.py wrote."})
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or (onnx) int8, which change answers."})
    dataset_name: str | None = field(default=None, metadata={"help": "File, folder or Hub id; it needs no labels."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    split: str | None = field(default=None, metadata={"help": "Of the data set; none: its only one."})
    text_column: str | None = field(default=None, metadata={"help": "None: text, sentence, content or review."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column with the second texts of pairs."})
    id_column: str | None = field(default=None, metadata={"help": "Becomes id; none: rows are counted from 0."})
    encoding: str | None = field(default=None, metadata={"help": "Of the file, such as gb18030; none: detected."})
    delimiter: str | None = field(default=None, metadata={"help": "Between the cells of a csv; none: detected."})
    streaming: bool = field(default=False, metadata={"help": "No copy of a data set of the Hub; rows uncounted."})
    output_file: str | None = field(default=None, metadata={"help": "A .parquet, .jsonl or .csv file."})
    keep_columns: bool = field(default=True, metadata={"help": "Write the columns of the data, too."})
    overwrite_output: bool = field(default=False, metadata={"help": "Remove what is there, and start anew."})
    abstain_below: float | None = field(default=None, metadata={"help": "Null where no label is so probable."})
    rows_per_part: int = field(default=4096, metadata={"help": "Rows written at once, and lost at most if killed."})
    shard: str | None = field(default=None, metadata={"help": "Label a share of the parts, such as 3/16; no joining."})
    text: str | None = field(default=None, metadata={"help": "To label; -: lines of standard input, pairs by tab."})
    text_pair: str | None = field(default=None, metadata={"help": "With --text: the second text of a pair."})
    words: bool = field(default=False, metadata={"help": "Also say what each word adds to the answer, as JSON."})
    steps: str | None = field(default=None, metadata={"help": "Python file with cleaning steps of the model's own."})
    cpu_threads: int | None = field(default=None, metadata={"help": "Per process on a CPU; none: cores by processes."})

    def __post_init__(self):
        if (self.text is None) == (self.dataset_name is None):
            raise ValueError("Found --text and --dataset_name, or neither; expected one of them. Give one.")
        if (self.dataset_name is None) != (self.output_file is None):
            raise ValueError("Found --dataset_name or --output_file alone; expected both or neither. Give the other.")
        of_data = (*SOURCE, "dataset_config_name", "overwrite_output", "shard")
        idle = [name for name in of_data if self.text is not None and getattr(self, name)]
        idle += ["text_pair"] if self.text_pair is not None and self.text in (None, "-") else []
        if idle:
            raise ValueError(
                f"Found --{idle[0]}, which does nothing here (--help says what it goes with). Leave it out."
            )
        if self.rows_per_part < 1:
            raise ValueError(f"Found --rows_per_part {self.rows_per_part}; expected at least 1. Raise it.")


def main(args: Arguments) -> None:
    # 1. The model, on one device a process
    output_file = Path(args.output_file or "").expanduser()
    if args.text is None:
        check_output(output_file, source=args.dataset_name, overwrite=args.overwrite_output, shard=args.shard)
    state = start_processes(args.cpu_threads, cpu=args.backend == "onnx", writes=args.output_file)
    load_steps(args.steps)
    engine = {"backend": args.backend, "dtype": args.dtype}
    classifier = TextClassifier.from_pretrained(args.model_name_or_path, device=state.device, **engine)
    classifier.predict([], abstain_below=args.abstain_below, words=args.words)  # refuses what the model cannot do
    if args.text is not None:
        return answer(classifier, args) if state.is_main_process else None

    # 2. The data, read once to find what is wrong with it before any row is labelled
    check_pairs(classifier, given=args.text_pair_column is not None, flag="--text_pair_column")
    options = {name: getattr(args, name) for name in SOURCE} | {"rows": args.rows_per_part, "keep": args.keep_columns}
    rows = stream_rows(args.dataset_name, args.dataset_config_name, **options)
    locks = []  # held by the first process, until all is labelled

    def begin() -> tuple[int | None, str | None]:
        survey = Survey()
        deque(survey.read(islice(rows(), 1) if args.streaming else rows()), maxlen=0)

        # 3. The parts that a killed run left are gone on with, if they are of this model, data and options
        names = ("abstain_below", "words", "rows_per_part", "streaming", "keep_columns", *engine)
        manifest = describe_program(classifier, args.steps) | {"data": survey.digest, "rows": survey.counts["rows"]}
        manifest |= {name: getattr(args, name) for name in names}
        locks.append(open_parts(output_file, manifest, overwrite=args.overwrite_output, shard=args.shard))
        return (None, None) if args.streaming else (survey.counts["rows"], survey.digest)

    total, digest = from_rank_0(begin)

    # 4. Label: a part a process at a time
    shown = {} if state.is_main_process else {"disable": True}  # of all processes' rows, which go on abreast
    with tqdm(total=total, desc="Labelling", unit=" rows", smoothing=0, **shown) as bar:
        asked = {"abstain_below": args.abstain_below, "words": args.words, "shard": args.shard}
        parts, counts = predict_parts(classifier, rows(), output_file, state=state, digest=digest, bar=bar, **asked)
    meet()

    # 5. One file, in the order of the data, once all parts are there
    if state.is_main_process and args.shard is not None:
        left = describe_missing(parts, args.shard) or "no part is missing: without --shard they are joined"
        print(f"Shard {args.shard} is labelled; {left}.")
    elif state.is_main_process:
        merge_parts(parts, output_file)
        locks.pop().release()
        print(f"{output_file}: {counts['rows']:,} rows")
        for kind, what in (("missing", "no text, and so no label"), ("empty", "an empty text, labelled as it is")):
            if counts[kind]:
                print(f"{counts[kind]:,} of them have {what}")


def answer(classifier: TextClassifier, args: Arguments) -> None:
    """Labels `--text`, or lines of standard input until its end."""
    pairs = classifier.model.config.pair_truncation is not None
    if args.text != "-":
        check_pairs(classifier, given=args.text_pair is not None, flag="--text_pair")
        texts = [(args.text, args.text_pair) if pairs else args.text]
    else:
        texts = lines_of_standard_input(pairs=pairs)
        if sys.stdin.isatty():
            print("A text a line, of a pair both with a tab between; Ctrl-D ends.", file=sys.stderr)
    for text in texts:
        answers = classifier.predict(text, abstain_below=args.abstain_below, words=args.words)
        print(describe_prediction(answers[0]), flush=True)


if __name__ == "__main__":
    with one_line_errors(), staying_together():
        main(parse_options(Arguments, description=__doc__))
