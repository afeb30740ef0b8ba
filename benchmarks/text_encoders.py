"""Texts a second of the text encoders on slice texts, and how far other precisions move a sentence-transformers model's vectors."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from u2qt_model.sentence_encoder import SentenceEncoder
from u2qt_model.text_config import TextEncoderConfig, TextModelConfig
from u2qt_model.text_encoders import Floats, HashingTextEncoder
from u2qt_model.threads import fixed_threads

WORDS = ("tea", "coffee", "red", "apple", "shoes", "paid", "order", "delivered", "pending", "refund", "store", "mobile", "search", "cheap", "best")


def texts(number: int, words: int) -> list[bytes]:
    """Different texts of about so many words."""
    rng = np.random.default_rng(0)
    return [f"{' '.join(rng.choice(WORDS, max(1, rng.poisson(words))))} {i}".encode() for i in range(number)]


def timed(encode: Callable[[list[bytes]], Floats], given: list[bytes]) -> tuple[Floats, float, float]:
    """Vectors, seconds on the clock, seconds of processor."""
    encode(given[:32])
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = encode(given)
    return vectors, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder or name of a sentence-transformers model")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    config = TextModelConfig(model=arguments.model, precision="float32")
    exact, near = SentenceEncoder(config), SentenceEncoder(replace(config, precision="bfloat16"))
    print("encoder, words a text, texts/s, texts/s of processor time, mean cosine with float32")
    with fixed_threads(arguments.threads):
        for words in (8, 30):
            given, reference = texts(arguments.texts, words), None
            for name, encoder in (("hashing", HashingTextEncoder(TextEncoderConfig())), ("float32", exact), ("bfloat16", near)):
                vectors, wall, cpu = timed(encoder.encode, given)
                if name == "float32":
                    reference = vectors
                cosine = "" if reference is None else f"{np.mean(np.sum(vectors * reference, 1)):.5f}"
                print(f"{name}, {words}, {len(given) / wall:.0f}, {len(given) / cpu:.0f}, {cosine}", flush=True)


if __name__ == "__main__":
    main()
