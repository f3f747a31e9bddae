"""Writes a tiny llama-architecture GGUF whose output is exactly predictable.

No training and no download: the weights are constructed. The last token of the
prompt chooses the answer: a prompt that ends in " 250" is answered
" 249 248 ... 1 0" and the end token, so a test chooses how many tokens a request
costs (N + 1) and sees a lost, doubled or re-ordered stream chunk in the text
itself. Numbers need a space before them and go up to `top_number`. A prompt that
ends in " call" is answered with a tool call (if tools were passed), one that ends
in " think" reasons first, any other is answered as though it ended in " 32".
For structured output over chat let the prompt end in " think": a server lets a
reasoning model think before the grammar applies, and only then does this one stop.

The size is free: wider and deeper models are slower and heavier with the same
text, so speed, load time, memory and KV cache behave like those of a real model
of that size, because they are.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from sollol_agents.lab.engine.vocabulary import (
    BOS_ID,
    CHAT_TEMPLATE,
    EOS_ID,
    UNKNOWN_ID,
    TokenKind,
    Vocabulary,
    build_vocabulary,
)
from sollol_agents.lab.engine.weights import Matrices, build_matrices, count_wrong_successors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    import numpy as np
    from gguf import GGUFWriter
    from numpy.typing import NDArray

Positive = Annotated[int, msgspec.Meta(ge=1)]

INSTALL_HINT: Final = "the real engine needs its extra: pip install 'sollol-bus[engine]'"
_FILE_TYPES: Final = {"f32": 0, "f16": 1, "q8_0": 7}


class EngineUnavailableError(RuntimeError):
    """The packages of the extra `engine` are missing; the message says how to install them."""


class ModelSize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How big the countdown model is; the defaults are the tiny one (1.9 M parameters, 3.9 MB)."""

    name: Annotated[str, msgspec.Meta(description="name written into the file")] = "countdown-tiny"
    hidden: Annotated[Positive, msgspec.Meta(description="width; a multiple of heads")] = 256
    layers: Annotated[Positive, msgspec.Meta(description="number of blocks")] = 2
    heads: Annotated[Positive, msgspec.Meta(description="attention heads")] = 4
    kv_heads: Annotated[Positive, msgspec.Meta(description="key/value heads")] = 2
    ffn: Annotated[Positive, msgspec.Meta(description="width of the feed-forward part")] = 512
    ctx_tokens: Annotated[Positive, msgspec.Meta(description="training context in tokens")] = 8192
    top_number: Annotated[int, msgspec.Meta(ge=32, description="largest number the model knows")] = 999
    file_type: Annotated[Literal["f32", "f16", "q8_0"], msgspec.Meta(description="number format")] = "f16"
    gain: Annotated[float, msgspec.Meta(gt=0, description="logit of the successor")] = 120.0
    is_embedding: Annotated[bool, msgspec.Meta(description="mark it as a mean-pooling embedding model")] = False
    seed: Annotated[int, msgspec.Meta(ge=0, description="seed of the random codes")] = 1

    @property
    def file_name(self) -> str:
        """A file name that changes whenever the model would."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"{self.name}-{digest[:12]}.gguf"


SIZES: Final = {
    "tiny": ModelSize(),
    # 25 M parameters, 50 MB: about 70 tokens/s on one core
    "small": ModelSize(name="countdown-small", hidden=512, layers=8, heads=8, kv_heads=4, ffn=1408),
    # 183 M parameters, 195 MB: about 35 tokens/s on one core
    "medium": ModelSize(
        name="countdown-medium", hidden=1024, layers=16, heads=16, kv_heads=4, ffn=2816, file_type="q8_0"
    ),
}


def ensure_model(size: ModelSize, folder: Path) -> Path:
    """Returns the path of the model in `folder`, writing it there first when it is missing.

    The file appears whole: it is written beside its place and renamed, so several
    processes may start at once.

    Raises:
        EngineUnavailableError: the packages `gguf` and `numpy` are missing.
    """
    path = folder / size.file_name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_model(size, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def write_model(size: ModelSize, path: Path) -> None:
    """Writes the model of that size to `path`; the same size always gives the same bytes.

    Raises:
        EngineUnavailableError: the packages `gguf` and `numpy` are missing.
        ValueError: the sizes do not give a model that counts.
    """
    gguf, numpy = _import_writer()
    rng = numpy.random.default_rng(size.seed)
    vocabulary = build_vocabulary(size.top_number)
    matrices = build_matrices(vocabulary, hidden=size.hidden, gain=size.gain, rng=rng)
    wrong = count_wrong_successors(matrices)
    if wrong:
        raise ValueError(f"hidden={size.hidden} is too narrow: {wrong} tokens would be followed by a wrong one")
    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, size, gguf)
    _add_tokenizer(writer, vocabulary)
    for name, array in _tensors(size, matrices, rng):
        _put(writer, name, array, size, gguf)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _import_writer() -> tuple[ModuleType, ModuleType]:
    """Returns the modules gguf and numpy."""
    try:
        return importlib.import_module("gguf"), importlib.import_module("numpy")
    except ImportError as error:
        raise EngineUnavailableError(INSTALL_HINT) from error


def _describe(writer: GGUFWriter, size: ModelSize, gguf: ModuleType) -> None:
    """Writes the architecture."""
    writer.add_name(size.name)
    writer.add_type("model")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_FILE_TYPES[size.file_type])
    writer.add_context_length(size.ctx_tokens)
    writer.add_embedding_length(size.hidden)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.ffn)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_rope_dimension_count(size.hidden // size.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(build_vocabulary(size.top_number)))
    if size.is_embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)


def _add_tokenizer(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Writes the vocabulary and the chat template."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text in vocabulary.texts])
    writer.add_token_scores([-1.0 if kind is TokenKind.NORMAL else 0.0 for kind in vocabulary.kinds])
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_unk_token_id(UNKNOWN_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(
    size: ModelSize, matrices: Matrices, rng: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yields every tensor by name."""
    import numpy as np  # noqa: PLC0415 - belongs to the extra `engine`

    hidden, ffn, kv_width = size.hidden, size.ffn, size.kv_heads * (size.hidden // size.heads)
    # one random matrix, used again: generating gigabytes of noise would take longer than loading it
    edge = max(hidden, ffn)
    noise = rng.standard_normal((edge, edge)).astype(np.float32) / np.sqrt(hidden)
    yield "token_embd.weight", matrices.embedding
    yield "output_norm.weight", np.ones(hidden, dtype=np.float32)
    yield "output.weight", matrices.head
    for block in range(size.layers):
        yield f"blk.{block}.attn_norm.weight", np.ones(hidden, dtype=np.float32)
        yield f"blk.{block}.attn_q.weight", noise[:hidden, :hidden]
        yield f"blk.{block}.attn_k.weight", noise[:kv_width, :hidden]
        yield f"blk.{block}.attn_v.weight", noise[:kv_width, :hidden]
        yield f"blk.{block}.attn_output.weight", np.zeros((hidden, hidden), dtype=np.float32)
        yield f"blk.{block}.ffn_norm.weight", np.ones(hidden, dtype=np.float32)
        yield f"blk.{block}.ffn_gate.weight", noise[:ffn, :hidden]
        yield f"blk.{block}.ffn_up.weight", noise[:ffn, :hidden]
        yield f"blk.{block}.ffn_down.weight", np.zeros((hidden, ffn), dtype=np.float32)


def _put(writer: GGUFWriter, name: str, array: NDArray[np.float32], size: ModelSize, gguf: ModuleType) -> None:
    """Adds one tensor in the file's number format; vectors always stay float32."""
    import numpy as np  # noqa: PLC0415 - belongs to the extra `engine`

    array = np.ascontiguousarray(array, dtype=np.float32)
    if size.file_type == "f32" or array.ndim == 1:
        writer.add_tensor(name, array)
    elif size.file_type == "f16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
