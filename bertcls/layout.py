"""Names of the files and folders of a run, once."""

AUDIT = "audit.json"
RECORD = "run.json"  # how the run was made; not shared, since it may hold local paths
CARD = "README.md"
CHECKPOINTS = "checkpoints"  # folder of Trainer's checkpoints
START = "start"  # beside the checkpoints: the model before its first step, which may be the best one
COMPLETE = "complete.json"  # in a checkpoint, written last
PLAIN = "plain"  # folder of a distilled student's twin, trained on the labels alone
LAUNCH = ".launch"  # of a run whose launcher starts it again: which launcher that is
REPORT = "report"  # folder; all scores of the reported rows can be recomputed from the predictions in it
RESULTS = f"{REPORT}/metrics.json"
PREDICTIONS = f"{REPORT}/predictions.parquet"
STOCK = "stock"  # folder of the copy for the stock classes of transformers
STUDY = "study.db"  # of a search: its trials
ONNX = "onnx"  # folder of the copy for ONNX Runtime

CONTRACT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")  # in every folder that holds a model
STOCK_FILES = ("model.safetensors", *CONTRACT_FILES)
MODEL_FILES = ("model.safetensors", "modeling.py", *CONTRACT_FILES)
ONNX_FILES = {"float32": "model.onnx", "int8": "model_int8.onnx"}
POOLING_FILE = "pooling.onnx"
_GRAPHS = (*ONNX_FILES.values(), POOLING_FILE)
EXPORT_FILES = {*CONTRACT_FILES, *_GRAPHS, *(f"{name}.data" for name in _GRAPHS)}  # weights of large models lie apart
PUBLIC_FILES = (*MODEL_FILES, CARD, *(f"{STOCK}/{name}" for name in STOCK_FILES))  # the rest has texts, paths, tokens
MODULES = "modules.json"  # how a sentence-embedding checkpoint makes its vectors
RUN_FILES = (*MODEL_FILES, CARD, RECORD)  # beside the folders and audit.json, which each run writes anew

DRAWN = "test (drawn by the run)"  # what the reported rows are called where they are no split of the source
FOLDS = "folds"  # the same where each was held out once
NEWEST = "newest"  # checkpoint: --resume_from_checkpoint without a value
