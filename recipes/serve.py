"""A trained model over HTTP, with a web page to try it.

Run:  python recipes/serve.py --model_name_or_path runs/sst2
      curl -H 'Content-Type: application/json' -d '{"sentences": ["A fine film."]}' http://127.0.0.1:8000/query

POST /query gives the labels' numbers, POST /predict names, scores, probabilities and windows; GET /health, /info,
/metrics and /docs say the rest, and / is the page. It listens on this machine alone unless --host says otherwise.
SIGTERM and Ctrl+C let it answer what it accepted. The log is JSON, a line a request, without the texts.

Measured: see bertcls/serve/README.md.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to those that work
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread tokenizes, beside those of the model

import argparse
import ipaddress
import logging.config
import socket
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from bertcls import TextClassifier
from bertcls.process import OptionParser, one_line_errors, use_cores
from bertcls.serve.app import Server, make_app
from bertcls.serve.middleware import LOGGING
from bertcls.serve.schemas import OPTION_OF, Limits
from bertcls.text import load_steps

BACKLOG = 2048  # connections that wait to be accepted
SWITCH_SECONDS = 0.0005  # Python's 0.005 makes each operation of the model wait for the event loop


def main(args: argparse.Namespace) -> None:
    # 1. The address and the limits first: what is wrong with them is said before a model is loaded
    api_key = read_key(args)
    listening = bind(args.host, args.port)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    hosts = {name.lower() for name in args.allowed_hosts}
    if ipaddress.ip_address(host).is_loopback:
        hosts |= {"localhost", "127.0.0.1", "[::1]", shown}
    elif api_key is None:
        print(f"Whoever reaches {args.host} can ask: give it a key (--api_key_file).", file=sys.stderr)

    limits = {name: getattr(args, option.removeprefix("--")) for name, option in OPTION_OF.items()}
    limits = Limits(**limits | {"wait": args.max_wait_ms / 1000})

    # 2. The model
    use_cores(args.cpu_threads)
    sys.setswitchinterval(SWITCH_SECONDS)
    transformers_logging.disable_progress_bar()
    load_steps(args.steps)
    classifier = TextClassifier.from_pretrained(args.model_name_or_path, args.backend, dtype=args.dtype)
    classifier.predict("warm" if classifier.model.config.pair_truncation is None else ("warm", "up"))

    # 3. The service
    is_folder = Path(args.model_name_or_path).exists()
    name = Path(args.model_name_or_path).resolve().name if is_folder else args.model_name_or_path
    options = {"log_texts": args.log_texts, "hosts": None if "*" in hosts else hosts or None}
    app = make_app(classifier, name=name, limits=limits, api_key=api_key, **options)

    # 4. Answer until a signal comes
    logging.config.dictConfig(LOGGING)
    listening.listen(BACKLOG)  # who comes from here on is answered
    print(f"Serving {name} at http://{shown}:{port}", flush=True)
    Server(app, log_config=None).run(sockets=[listening])


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, which listens once the model is loaded.

    Raises:
        OSError: the port is taken, or the host is not one of this machine.
    """
    try:
        if not 0 <= port < 65536:  # which getaddrinfo takes for another one
            raise OverflowError("no port")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Found no way to listen at {host}, port {port} ({getattr(error, 'strerror', None) or error}); expected a "
            "free port of this machine. Name another --port or --host, or end what listens there."
        ) from error
    return found


def read_key(args: argparse.Namespace) -> str | None:
    """The key that requests have to bring, from the file, the option or the environment.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key that is empty or cannot stand in a header.
    """
    key = args.api_key if args.api_key is not None else os.environ.get("BERTCLS_API_KEY")
    if args.api_key_file is not None:
        path = Path(args.api_key_file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"No key found at {path}; expected a file that holds it. Check --api_key_file.")
        key = path.read_text().strip()
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        raise ValueError("Found an API key that is empty or no header can hold; expected letters, digits and signs.")
    return key


if __name__ == "__main__":
    parser = OptionParser(__doc__)
    defaults = Limits()
    parser.add_argument("--model_name_or_path", required=True, help="folder that a recipe saved, or its Hub id")
    parser.add_argument("--backend", default="torch", help="or onnx, for a folder that export_onnx.py wrote")
    parser.add_argument(
        "--dtype", default="float32", help="or bfloat16 or (onnx) int8, which change answers (%(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--api_key", help="that requests must bring; other users of this machine can see it in ps")
    parser.add_argument("--api_key_file", help="file with the key; the environment's BERTCLS_API_KEY serves, too")
    parser.add_argument("--allowed_hosts", nargs="+", default=[], help="in Host, as a proxy here sends it; * for all")
    parser.add_argument("--max_texts", type=int, default=defaults.texts, help="of a request (default: %(default)s)")
    parser.add_argument("--max_characters", type=int, default=defaults.characters, help="of a text (%(default)s)")
    parser.add_argument("--max_tokens", type=int, default=defaults.tokens, help="of a request (%(default)s)")
    parser.add_argument("--max_word_tokens", type=int, default=defaults.word_tokens, help="for words (%(default)s)")
    parser.add_argument("--max_body_bytes", type=int, default=defaults.body, help="of a request (%(default)s)")
    parser.add_argument("--max_answer_bytes", type=int, default=defaults.answer, help="windows, words (%(default)s)")
    parser.add_argument("--max_queue", type=int, default=defaults.queue, help="texts that wait at most (%(default)s)")
    parser.add_argument("--timeout", type=float, default=defaults.seconds, help="seconds to an answer (%(default)s)")
    parser.add_argument("--max_wait_ms", type=float, default=1000 * defaults.wait, help="for company (%(default)s)")
    parser.add_argument("--batch_tokens", type=int, help="padded tokens of a forward pass (512 on a CPU, else 16384)")
    parser.add_argument("--cpu_threads", type=int, help="of the model (default: one a core)")
    parser.add_argument("--steps", help="Python file with the cleaning steps that are the model's own")
    parser.add_argument("--log_texts", action="store_true", help="write the texts of requests into the log, too")
    with one_line_errors():
        main(parser.parse_args())
